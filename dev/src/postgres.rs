//! One Postgres cluster as a child process, with its own data directory, port and password: nothing is shared with a
//! cluster the distribution may run on 5432.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, geteuid};
use tokio_postgres::NoTls;

use crate::ports;
use crate::process::{Launch, Process, Stopped};

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Where data goes when the `postgres` user cannot reach the checkout (root's home, say).
const OUTSIDE: &str = "/var/tmp";
const OUTSIDE_PREFIX: &str = "tidewatch-";
/// The name of the link to it, inside the checkout.
const LINK: &str = "elsewhere";

/// Where and with which password.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Holds the data directory, or a link to it where the server's user cannot come here.
    pub directory: PathBuf,
    /// The server's log.
    pub log: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
    /// Of the superuser `postgres` and of the role `tidewatch`, set when the cluster is made.
    pub password: String,
}

impl PostgresOptions {
    /// A free port and a random password: what tests want.
    pub fn new(directory: PathBuf, log: PathBuf) -> Result<PostgresOptions> {
        let password = format!("{:032x}", rand::random::<u128>());
        Ok(PostgresOptions { directory, log, port: ports::free()?, password })
    }
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    options: PostgresOptions,
}

impl Postgres {
    /// Makes the cluster if it is new, starts the server and waits until it answers a query. There is then a role
    /// `tidewatch` without privileges of its own.
    pub async fn start(options: PostgresOptions) -> Result<Postgres> {
        let user = server_user()?;
        let data = data_directory(&options.directory, user)?;
        let binaries = binaries(&data)?;
        let new = !data.join("PG_VERSION").is_file();
        if new {
            initialise(&options, &data, &binaries, user).await?;
        }
        let process = Process::start(Launch {
            name: "postgres".into(),
            program: binaries.join("postgres"),
            arguments: server_arguments(&data, options.port),
            environment: vec![],
            log: options.log.clone(),
            user,
            // Fast shutdown: sessions are ended, the next start needs no recovery.
            end_signal: Signal::SIGINT,
        })?;
        let postgres = Postgres { process, options };
        postgres.process.until_ready(START_PATIENCE, until_it_answers(postgres.superuser_url())).await?;
        postgres.ensure_role().await?;
        Ok(postgres)
    }

    /// A hot standby of this server: a copy that follows it and takes no writes.
    pub async fn standby(&self, options: PostgresOptions) -> Result<Postgres> {
        let user = server_user()?;
        let data = data_directory(&options.directory, user)?;
        let PostgresOptions { port, password, .. } = &self.options;
        let tool = Process::start(Launch {
            name: "pg_basebackup".into(),
            program: binaries(&data)?.join("pg_basebackup"),
            arguments: vec![
                format!("--dbname=postgres://postgres@127.0.0.1:{port}"),
                format!("--pgdata={}", data.display()),
                "--write-recovery-conf".into(),
                "--checkpoint=fast".into(),
            ],
            environment: vec![("PGPASSWORD".into(), password.clone())],
            log: options.log.clone(),
            user,
            end_signal: Signal::SIGKILL,
        })?;
        let status = tool.until_ended(START_PATIENCE).await?;
        if !status.success() {
            bail!("pg_basebackup failed ({status}):\n{}", tool.log_tail());
        }
        // Roles and passwords are the primary's.
        Postgres::start(PostgresOptions { password: password.clone(), ..options }).await
    }

    /// The superuser's URL, database `postgres`.
    pub fn superuser_url(&self) -> String {
        let PostgresOptions { port, password, .. } = &self.options;
        format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres")
    }

    /// The child.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Fast shutdown: sessions are ended, data is flushed.
    pub async fn stop(self) -> Result<Stopped> {
        self.process.stop(Signal::SIGINT, STOP_PATIENCE).await
    }

    /// Immediate shutdown, as after a crash; the next start recovers from the log.
    pub async fn kill(&self) -> Result<Stopped> {
        self.process.stop(Signal::SIGQUIT, STOP_PATIENCE).await
    }

    /// Starts the server again on the same data and port, after stopping it if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::SIGINT, STOP_PATIENCE).await?;
        *self = Postgres::start(self.options.clone()).await?;
        Ok(())
    }

    /// True when the server at this URL answers a query, within a second.
    pub async fn answers(url: &str) -> bool {
        tokio::time::timeout(QUERY_TIMEOUT, can_query(url)).await.unwrap_or(false)
    }

    /// The role that owns tidewatch's databases.
    async fn ensure_role(&self) -> Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.superuser_url(), NoTls).await?;
        let connection = tokio::spawn(connection);
        let known = client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = 'tidewatch'", &[]).await?;
        if known.is_none() {
            // Passwords made here are hexadecimal; one given from outside may hold a quote.
            let password = self.options.password.replace('\'', "''");
            client.batch_execute(&format!("CREATE ROLE tidewatch LOGIN PASSWORD '{password}'")).await?;
        }
        drop(client);
        connection.await.context("the connection's task")?.context("creating the role")
    }
}

/// `url` with another role and database; role `tidewatch` has the superuser's password in a stack of this crate.
pub fn database_url(url: &str, role: &str, database: &str) -> Result<String> {
    let Some((scheme, rest)) = url.split_once("://") else { bail!("no URL: {url}") };
    let (authority, options) = rest.split_once('/').unwrap_or((rest, ""));
    let options = options.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
    let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let password =
        credentials.split_once(':').map(|(_, password)| format!(":{password}")).unwrap_or_default();
    Ok(format!("{scheme}://{role}{password}@{host}/{database}{options}"))
}

/// Postgres refuses to run as root: root's server runs as the user that Debian's package makes.
fn server_user() -> Result<Option<(Uid, Gid)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("looking up user postgres")?;
    let Some(user) = user else {
        bail!(
            "Postgres refuses to run as root, and there is no user `postgres` to run it as; Debian's package \
             postgresql makes one (dev/install.sh installs it)"
        )
    };
    Ok(Some((user.uid, user.gid)))
}

/// The data directory, made on demand where the server's user can reach it.
fn data_directory(directory: &Path, user: Option<(Uid, Gid)>) -> Result<PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let link = directory.join(LINK);
    let home = match user {
        Some((uid, gid)) if !link.exists() && reachable(&directory, uid, gid) => directory,
        Some((uid, _)) => outside(&directory, &link, uid)?,
        None => directory,
    };
    let data = home.join("data");
    if !data.exists() {
        std::fs::create_dir(&data).with_context(|| format!("creating {}", data.display()))?;
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700))?;
        if let Some((uid, gid)) = user {
            chown(&data, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("giving {} to user postgres", data.display()))?;
        }
    }
    Ok(data)
}

/// True when that user may pass through every directory down to `path`.
fn reachable(path: &Path, uid: Uid, gid: Gid) -> bool {
    path.ancestors().all(|ancestor| {
        ancestor.metadata().is_ok_and(|metadata| {
            let search = if metadata.uid() == uid.as_raw() {
                0o100
            } else if metadata.gid() == gid.as_raw() {
                0o010
            } else {
                0o001
            };
            metadata.mode() & search != 0
        })
    })
}

/// A directory of the server's user under /var/tmp, linked from here.
fn outside(directory: &Path, link: &Path, uid: Uid) -> Result<PathBuf> {
    if let Ok(home) = link.read_link() {
        let owner =
            home.symlink_metadata().ok().filter(std::fs::Metadata::is_dir).map(|metadata| metadata.uid());
        if owner == Some(0) {
            return Ok(home);
        }
        std::fs::remove_file(link).with_context(|| format!("removing the stale {}", link.display()))?;
    }
    let home = Path::new(OUTSIDE).join(format!("{OUTSIDE_PREFIX}{:016x}", rand::random::<u64>()));
    // Fails if it exists: nobody else can have put it there for us to fall into.
    std::fs::create_dir(&home).with_context(|| format!("creating {}", home.display()))?;
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o711))?;
    symlink(&home, link).with_context(|| {
        format!("linking {} for user {uid}, who cannot reach {}", home.display(), directory.display())
    })?;
    Ok(home)
}

/// Removes the data that `scratch` (or a directory right inside it) has under /var/tmp, if any.
pub(crate) fn remove_outside_data(scratch: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(scratch) else { return Ok(()) };
    for entry in entries {
        let Ok(home) = entry?.path().join(LINK).read_link() else { continue };
        let ours = home.parent() == Some(Path::new(OUTSIDE))
            && home.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OUTSIDE_PREFIX));
        if ours && home.exists() {
            std::fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
        }
    }
    Ok(())
}

/// The newest installed server, or for existing data the one of its version.
fn binaries(data: &Path) -> Result<PathBuf> {
    let version = std::fs::read_to_string(data.join("PG_VERSION")).ok();
    let version = version.as_deref().map(str::trim);
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let directory = entry.path().join("bin");
        let major = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(major) = major.filter(|_| directory.join("postgres").is_file()) {
            found.push((major, directory));
        }
    }
    found.sort();
    if let Some(version) = version {
        let same = found.iter().find(|(major, _)| major.to_string() == version);
        if let Some((_, directory)) = same {
            return Ok(directory.clone());
        }
    } else if let Some((_, directory)) = found.pop() {
        return Ok(directory);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|directory| directory.join("initdb").is_file());
    match (on_path, version) {
        (Some(directory), _) => Ok(directory),
        (None, Some(version)) => bail!(
            "{} was made by Postgres {version}, which is not installed; install it, or remove that directory",
            data.display()
        ),
        (None, None) => bail!("no Postgres server found (package postgresql); dev/install.sh installs it"),
    }
}

async fn initialise(
    options: &PostgresOptions,
    data: &Path,
    binaries: &Path,
    user: Option<(Uid, Gid)>,
) -> Result<()> {
    // The password goes through a file in the data directory's parent, readable by the server's user alone.
    let file = data.with_file_name("password");
    std::fs::write(&file, "")
        .and_then(|()| std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)))?;
    std::fs::write(&file, &options.password)?;
    if let Some((uid, gid)) = user {
        chown(&file, Some(uid.as_raw()), Some(gid.as_raw()))?;
    }
    let tool = Process::start(Launch {
        name: "initdb".into(),
        program: binaries.join("initdb"),
        arguments: vec![
            format!("--pgdata={}", data.display()),
            format!("--pwfile={}", file.display()),
            "--username=postgres".into(),
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
            "--data-checksums".into(),
        ],
        environment: vec![],
        log: options.log.clone(),
        user,
        end_signal: Signal::SIGKILL,
    })?;
    let status = tool.until_ended(START_PATIENCE).await;
    std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    let status = status?;
    if !status.success() {
        bail!("initdb failed ({status}):\n{}", tool.log_tail());
    }
    Ok(())
}

/// Durable as in production, sized for a shared machine: what is acknowledged is on disk.
fn server_arguments(data: &Path, port: u16) -> Vec<String> {
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        // TCP only: no path that could be too long for a socket.
        "unix_socket_directories=".into(),
        "cluster_name=tidewatch".into(),
        // Tests run side by side, each with its own services and pools.
        "max_connections=400".into(),
        "shared_buffers=256MB".into(),
        "max_wal_size=4GB".into(),
        "wal_compression=lz4".into(),
        "checkpoint_timeout=15min".into(),
        "fsync=on".into(),
        "synchronous_commit=on".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "log_line_prefix=%m [%p] %d %a ".into(),
        "log_checkpoints=off".into(),
    ];
    let mut arguments = vec!["-D".into(), data.display().to_string()];
    for setting in settings {
        arguments.extend(["-c".into(), setting]);
    }
    arguments
}

async fn until_it_answers(url: String) {
    while !Postgres::answers(&url).await {
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn can_query(url: &str) -> bool {
    let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await else { return false };
    let connection = tokio::spawn(connection);
    let answered = client.simple_query("SELECT 1").await.is_ok();
    drop(client);
    let _ = connection.await;
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_password_host_and_options_when_role_and_database_change() {
        let url = "postgres://postgres:pw@127.0.0.1:15432/postgres?sslmode=disable";
        assert_eq!(
            database_url(url, "tidewatch", "t_1").unwrap(),
            "postgres://tidewatch:pw@127.0.0.1:15432/t_1?sslmode=disable"
        );
        assert_eq!(database_url("postgres://host", "role", "db").unwrap(), "postgres://role@host/db");
        assert!(database_url("host=localhost", "role", "db").is_err());
    }

    #[test]
    fn a_directory_is_reachable_only_if_each_of_its_parents_is() {
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        let inside = closed.join("inside");
        std::fs::create_dir_all(&inside).unwrap();
        for (mode, expected) in [(0o755, true), (0o700, false), (0o711, true), (0o750, false)] {
            std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
            let (uid, gid) = (Uid::from_raw(54_321), Gid::from_raw(54_321));
            assert_eq!(reachable(&inside, uid, gid), expected, "{mode:o}");
        }
    }
}
