//! Every tidewatch service as a child process against one Kafka and one Postgres.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::ports;
use crate::process::{Launch, Process, Stopped};
use crate::readiness::Readiness;

const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Services promise to end within 10 s.
const STOP_PATIENCE: Duration = Duration::from_secs(12);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A service of the system, in the order in which they are stopped: what takes data in first, what stores it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// HTTP and syslog into Kafka.
    Ingest,
    /// Reads for analysts.
    Api,
    /// `tidewatch-partitions run`.
    Partitions,
    /// Raw to enriched.
    Enrich,
    /// Enriched to signals.
    Detect,
    /// Signals to incidents.
    Correlate,
    /// Kafka into Postgres.
    Sink,
}

impl Service {
    /// All of them, in the order in which they are stopped.
    pub const ALL: [Service; 7] = [
        Service::Ingest,
        Service::Api,
        Service::Partitions,
        Service::Enrich,
        Service::Detect,
        Service::Correlate,
        Service::Sink,
    ];

    /// Its name in tables, logs and of its binary (after `tidewatch-`).
    pub fn name(self) -> &'static str {
        match self {
            Service::Ingest => "ingest",
            Service::Api => "api",
            Service::Partitions => "partitions",
            Service::Enrich => "enrich",
            Service::Detect => "detect",
            Service::Correlate => "correlate",
            Service::Sink => "sink",
        }
    }
}

/// Where clients reach the first ingest and the first api, all on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServicePorts {
    /// Pushes over HTTP.
    pub ingest: u16,
    /// The API.
    pub api: u16,
    /// Syslog, the same number for TCP and UDP.
    pub syslog: u16,
}

impl ServicePorts {
    /// Free ones.
    pub fn free() -> Result<ServicePorts> {
        Ok(ServicePorts { ingest: ports::free()?, api: ports::free()?, syslog: ports::free()? })
    }
}

/// What all services share.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Where their binaries are.
    pub binaries: PathBuf,
    /// Each logs to `<logs>/<name>.log`.
    pub logs: PathBuf,
    /// `host:port` of the brokers.
    pub kafka_brokers: String,
    /// Put before every topic and consumer group.
    pub topic_prefix: String,
    /// The services' database.
    pub database_url: String,
    /// The rule directory.
    pub rules: PathBuf,
    /// The org of syslog and of foreign records.
    pub org: String,
    /// Where clients connect.
    pub ports: ServicePorts,
    /// More variables for some services, such as `(Service::Sink, "TIDEWATCH_LOG", "debug")`; an empty value takes one away.
    pub environment: Vec<(Service, String, String)>,
    /// Whether instances tell their group their names, and so have their partitions back at once after a death.
    pub named_instances: bool,
}

/// The running services, by name: `sink` is the first sink, `sink-2` the next.
#[derive(Debug)]
pub struct Services {
    options: ServiceOptions,
    instances: BTreeMap<String, Instance>,
    client: reqwest::Client,
}

#[derive(Debug)]
struct Instance {
    service: Service,
    ports: ServicePorts,
    admin_port: u16,
    /// `None` after a stop, until the next start.
    process: Option<Process>,
}

impl Services {
    /// Nothing is started yet.
    pub fn new(options: ServiceOptions) -> Services {
        Services { options, instances: BTreeMap::new(), client: reqwest::Client::new() }
    }

    /// Starts one of each and waits until all are ready.
    pub async fn start_all(&mut self) -> Result<()> {
        let names = Service::ALL.map(|service| self.spawn(service));
        for name in names {
            self.until_ready(&name?).await?;
        }
        Ok(())
    }

    /// Starts one instance without waiting for it; returns its name.
    pub fn spawn(&mut self, service: Service) -> Result<String> {
        let earlier = self.instances.values().filter(|instance| instance.service == service).count();
        let (name, ports) = match earlier {
            0 => (service.name().to_owned(), self.options.ports),
            _ => (format!("{}-{}", service.name(), earlier + 1), ServicePorts::free()?),
        };
        let mut instance = Instance { service, ports, admin_port: ports::free()?, process: None };
        instance.process = Some(self.launch(&name, &instance)?);
        self.instances.insert(name.clone(), instance);
        Ok(name)
    }

    /// Waits until that instance says it is ready.
    pub async fn until_ready(&self, name: &str) -> Result<()> {
        let instance = self.instance(name)?;
        let process = instance.process.as_ref().with_context(|| format!("{name} is stopped"))?;
        let ready = async {
            while !Readiness::ask(&self.client, instance.admin_port).await.is_ok_and(|answer| answer.ready) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if let Err(error) = process.until_ready(READY_PATIENCE, ready).await {
            return Err(match Readiness::ask(&self.client, instance.admin_port).await {
                Ok(answer) => error.context(format!("{name} is waiting ({})", answer.missing())),
                Err(_) => error,
            });
        }
        Ok(())
    }

    /// What /readyz of that instance answers now.
    pub async fn readiness(&self, name: &str) -> Result<Readiness> {
        Readiness::ask(&self.client, self.instance(name)?.admin_port).await
    }

    /// What /metrics of that instance answers now, in Prometheus' text format.
    pub async fn metrics(&self, name: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.instance(name)?.admin_port);
        let answer = self.client.get(&url).send().await.and_then(reqwest::Response::error_for_status);
        answer
            .with_context(|| format!("asking {name}"))?
            .text()
            .await
            .with_context(|| format!("reading {url}"))
    }

    /// The child behind a name; an error while it is stopped.
    pub fn process(&self, name: &str) -> Result<&Process> {
        self.instance(name)?.process.as_ref().with_context(|| format!("{name} is stopped"))
    }

    /// Where clients reach an instance.
    pub fn ports(&self, name: &str) -> Result<ServicePorts> {
        Ok(self.instance(name)?.ports)
    }

    /// Names with their admin ports and processes (`None` while stopped).
    pub fn list(&self) -> impl Iterator<Item = (&str, u16, Option<&Process>)> {
        self.instances
            .iter()
            .map(|(name, instance)| (name.as_str(), instance.admin_port, instance.process.as_ref()))
    }

    /// SIGTERM, and SIGKILL when it has not ended in time.
    pub async fn terminate(&mut self, name: &str) -> Result<Stopped> {
        self.take(name)?.stop(Signal::SIGTERM, STOP_PATIENCE).await
    }

    /// kill -9.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        self.take(name)?.kill().await
    }

    /// Starts a stopped, killed or ended instance again on its ports and waits until it is ready; one that runs is
    /// terminated first.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        if self.instance(name)?.process.is_some() {
            self.terminate(name).await?;
        }
        let process = self.launch(name, self.instance(name)?)?;
        if let Some(instance) = self.instances.get_mut(name) {
            instance.process = Some(process);
        }
        self.until_ready(name).await
    }

    /// Instances that have ended by themselves, with their service.
    pub fn dead(&self) -> impl Iterator<Item = (&str, Service)> {
        let ended = |instance: &Instance| {
            instance.process.as_ref().is_some_and(|process| process.exit_status().is_some())
        };
        self.instances
            .iter()
            .filter(move |(_, instance)| ended(instance))
            .map(|(name, instance)| (name.as_str(), instance.service))
    }

    /// Starts again what has ended by itself, without waiting for it; returns the names.
    pub fn revive(&mut self) -> Result<Vec<String>> {
        let ended: Vec<String> = self.dead().map(|(name, _)| name.to_owned()).collect();
        for name in &ended {
            self.revive_one(name)?;
        }
        Ok(ended)
    }

    /// Starts one of these again, without waiting for it.
    pub fn revive_one(&mut self, name: &str) -> Result<()> {
        let process = self.launch(name, self.instance(name)?)?;
        if let Some(instance) = self.instances.get_mut(name) {
            instance.process = Some(process);
        }
        Ok(())
    }

    /// Stops everything in order; returns the names of those that had to be killed.
    pub async fn stop(mut self) -> Result<Vec<String>> {
        let mut killed = Vec::new();
        let mut instances: Vec<_> = std::mem::take(&mut self.instances).into_iter().collect();
        instances.sort_by_key(|(_, instance)| instance.service);
        for (name, instance) in instances {
            let Some(process) = instance.process else { continue };
            if process.stop(Signal::SIGTERM, STOP_PATIENCE).await? == Stopped::Killed {
                killed.push(name);
            }
        }
        Ok(killed)
    }

    /// Gives the instances of a service another value of a variable from their next start on; an empty one takes it away.
    pub fn set_environment(&mut self, service: Service, variable: &str, value: &str) {
        self.options.environment.retain(|(of, name, _)| (*of, name.as_str()) != (service, variable));
        self.options.environment.push((service, variable.into(), value.into()));
    }

    /// What was given at the start.
    pub fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// Where pushes go: `http://127.0.0.1:<port>`.
    pub fn ingest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.options.ports.ingest)
    }

    /// Where the API answers: `http://127.0.0.1:<port>`.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.options.ports.api)
    }

    /// `host:port` of the syslog listeners, TCP and UDP.
    pub fn syslog_address(&self) -> String {
        format!("127.0.0.1:{}", self.options.ports.syslog)
    }

    fn instance(&self, name: &str) -> Result<&Instance> {
        self.instances.get(name).with_context(|| format!("there is no service {name}"))
    }

    fn take(&mut self, name: &str) -> Result<Process> {
        let instance = self.instances.get_mut(name).with_context(|| format!("there is no service {name}"))?;
        instance.process.take().with_context(|| format!("{name} is stopped"))
    }

    fn launch(&self, name: &str, instance: &Instance) -> Result<Process> {
        let program = self.options.binaries.join(format!("tidewatch-{}", instance.service.name()));
        if !program.is_file() {
            bail!("{} is missing; `make build` makes it", program.display());
        }
        let arguments = match instance.service {
            Service::Partitions => vec!["run".into()],
            _ => vec![],
        };
        let mut environment = self.environment(name, instance);
        // An empty variable is no way to say "none" to a flag that takes an org or an address.
        environment.retain(|(_, value)| !value.is_empty());
        Process::start(Launch {
            name: name.into(),
            program,
            arguments,
            environment,
            log: self.options.logs.join(format!("{name}.log")),
            user: None,
            end_signal: Signal::SIGKILL,
        })
    }

    fn environment(&self, name: &str, instance: &Instance) -> Vec<(String, String)> {
        let ServiceOptions { kafka_brokers, topic_prefix, database_url, rules, org, .. } = &self.options;
        let ServicePorts { ingest, api, syslog } = instance.ports;
        let mut variables = vec![
            ("TIDEWATCH_KAFKA_BROKERS", kafka_brokers.clone()),
            ("TIDEWATCH_TOPIC_PREFIX", topic_prefix.clone()),
            ("TIDEWATCH_DATABASE_URL", database_url.clone()),
            ("TIDEWATCH_ADMIN_LISTEN", format!("127.0.0.1:{}", instance.admin_port)),
            ("TIDEWATCH_LOG_FORMAT", "human".into()),
        ];
        if let Ok(filter) = std::env::var("TIDEWATCH_LOG") {
            variables.push(("TIDEWATCH_LOG", filter));
        }
        match instance.service {
            Service::Ingest => variables.extend([
                ("TIDEWATCH_HTTP_LISTEN", format!("127.0.0.1:{ingest}")),
                ("TIDEWATCH_SYSLOG_TCP_LISTEN", format!("127.0.0.1:{syslog}={org}")),
                ("TIDEWATCH_SYSLOG_UDP_LISTEN", format!("127.0.0.1:{syslog}={org}")),
            ]),
            Service::Api => variables.push(("TIDEWATCH_API_LISTEN", format!("127.0.0.1:{api}"))),
            Service::Enrich => variables.push(("TIDEWATCH_DEFAULT_ORG", org.clone())),
            Service::Detect | Service::Correlate => {
                variables.push(("TIDEWATCH_RULES", rules.display().to_string()));
            }
            Service::Partitions | Service::Sink => {}
        }
        if self.options.named_instances
            && matches!(
                instance.service,
                Service::Enrich | Service::Detect | Service::Correlate | Service::Sink
            )
        {
            variables.push(("TIDEWATCH_INSTANCE_ID", name.to_owned()));
        }
        let mut variables: BTreeMap<String, String> =
            variables.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let own = self.options.environment.iter().filter(|(service, _, _)| *service == instance.service);
        variables.extend(own.map(|(_, key, value)| (key.clone(), value.clone())));
        variables.into_iter().collect()
    }
}
