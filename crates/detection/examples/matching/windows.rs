//! Windows events as a collector renders them to JSON: `System`, `EventData`, and the message in `RenderingInfo`.

use std::fmt::Write;

const SYSMON: (&str, &str) = ("Microsoft-Windows-Sysmon", "Microsoft-Windows-Sysmon/Operational");
const SECURITY: (&str, &str) = ("Microsoft-Windows-Security-Auditing", "Security");
const POWERSHELL: (&str, &str) = ("Microsoft-Windows-PowerShell", "Microsoft-Windows-PowerShell/Operational");
const SYSTEM: (&str, &str) = ("Service Control Manager", "System");

/// Image, command line, description, company, and the image that starts it: what runs on desktops and servers all day.
const PROCESSES: [[&str; 5]; 12] = [
    [
        r"C:\Windows\System32\svchost.exe",
        r"C:\Windows\System32\svchost.exe -k netsvcs -p -s wlidsvc",
        "Host Process for Windows Services",
        "Microsoft Corporation",
        r"C:\Windows\System32\services.exe",
    ],
    [
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r#""C:\Program Files\Google\Chrome\Application\chrome.exe" --type=renderer --lang=en-GB --device-scale-factor=1.25 --num-raster-threads=4 --enable-main-frame-before-activation --renderer-client-id=41 --time-ticks-at-unix-epoch=-1795151 --launch-time-ticks=98514 --field-trial-handle=3588,i,1423"#,
        "Google Chrome",
        "Google LLC",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ],
    [
        r"C:\Windows\System32\backgroundTaskHost.exe",
        r#""C:\Windows\system32\backgroundTaskHost.exe" -ServerName:App.AppXmtcan0h2tfbfy7k9kn8hbxb6dmzz1zh0.mca"#,
        "Background Task Host",
        "Microsoft Corporation",
        r"C:\Windows\System32\svchost.exe",
    ],
    [
        r"C:\Windows\System32\conhost.exe",
        r"\??\C:\Windows\system32\conhost.exe 0xffffffff -ForceV1",
        "Console Window Host",
        "Microsoft Corporation",
        r"C:\Windows\System32\cmd.exe",
    ],
    [
        r"C:\Windows\System32\cmd.exe",
        r#"C:\Windows\system32\cmd.exe /c ""C:\ProgramData\Inventory\collect.cmd" --quiet --out C:\ProgramData\Inventory\today.csv""#,
        "Windows Command Processor",
        "Microsoft Corporation",
        r"C:\Program Files\Inventory\agent.exe",
    ],
    [
        r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe",
        r#"powershell.exe -NoProfile -NonInteractive -File "C:\Program Files\Inventory\Get-Disks.ps1" -Format Csv"#,
        "Windows PowerShell",
        "Microsoft Corporation",
        r"C:\Program Files\Inventory\agent.exe",
    ],
    [
        r"C:\Windows\System32\taskhostw.exe",
        r"taskhostw.exe KEYROAMING",
        "Host Process for Windows Tasks",
        "Microsoft Corporation",
        r"C:\Windows\System32\svchost.exe",
    ],
    [
        r"C:\Windows\System32\RuntimeBroker.exe",
        r"C:\Windows\System32\RuntimeBroker.exe -Embedding",
        "Runtime Broker",
        "Microsoft Corporation",
        r"C:\Windows\System32\svchost.exe",
    ],
    [
        r"C:\Program Files\Microsoft Office\root\Office16\OUTLOOK.EXE",
        r#""C:\Program Files\Microsoft Office\root\Office16\OUTLOOK.EXE" /restore"#,
        "Microsoft Outlook",
        "Microsoft Corporation",
        r"C:\Windows\explorer.exe",
    ],
    [
        r"C:\Program Files\Git\cmd\git.exe",
        r"git -c core.quotepath=false -c log.showSignature=false fetch origin --recurse-submodules=no --progress --prune",
        "Git for Windows",
        "The Git Development Community",
        r"C:\Program Files\JetBrains\IntelliJ IDEA 2026.2\bin\idea64.exe",
    ],
    [
        r"C:\Windows\System32\rundll32.exe",
        r"C:\Windows\system32\rundll32.exe C:\Windows\system32\PcaSvc.dll,PcaPatchSdbTask",
        "Windows host process (Rundll32)",
        "Microsoft Corporation",
        r"C:\Windows\System32\svchost.exe",
    ],
    [
        r"C:\Program Files\Windows Defender\MpCmdRun.exe",
        r#""C:\Program Files\Windows Defender\MpCmdRun.exe" SpyNetServiceDss -RestrictPrivileges -AccessKey 1B0A"#,
        "Microsoft Malware Protection Command Line Utility",
        "Microsoft Corporation",
        r"C:\ProgramData\Microsoft\Windows Defender\Platform\4.18.26\MsMpEng.exe",
    ],
];

/// A process creation, four in five of them Sysmon's.
pub(crate) fn process_creation(n: usize) -> String {
    let [image, command, description, company, parent] = PROCESSES[n % PROCESSES.len()];
    let file = image.rsplit('\\').next().unwrap_or(image);
    let id = format!("{}", 3_000 + n % 20_000);
    if n % 5 == 4 {
        let data = [
            ("SubjectUserSid", "S-1-5-21-3623811015-3361044348-30300820-1013"),
            ("SubjectUserName", "ada"),
            ("SubjectDomainName", "CORP"),
            ("SubjectLogonId", "0x3b5e64"),
            ("NewProcessId", "0x1a2c"),
            ("NewProcessName", image),
            ("TokenElevationType", "%%1938"),
            ("ProcessId", "0x9f4"),
            ("CommandLine", command),
            ("TargetUserSid", "S-1-0-0"),
            ("TargetUserName", "-"),
            ("TargetDomainName", "-"),
            ("TargetLogonId", "0x0"),
            ("ParentProcessName", parent),
            ("MandatoryLabel", "S-1-16-8192"),
        ];
        return rendered(n, SECURITY, 4688, &data);
    }
    let hashes = hashes(n);
    let guid = format!("{{0197231e-{:04x}-6929-4111-000000000d00}}", n % 65_536);
    let parent_command = format!("{parent} -k netsvcs -p -s Schedule");
    let data = [
        ("RuleName", "-"),
        ("UtcTime", "2026-11-21 09:05:07.123"),
        ("ProcessGuid", &guid),
        ("ProcessId", &id),
        ("Image", image),
        ("FileVersion", "10.0.26100.1742 (WinBuild.160101.0800)"),
        ("Description", description),
        ("Product", "Microsoft® Windows® Operating System"),
        ("Company", company),
        ("OriginalFileName", file),
        ("CommandLine", command),
        ("CurrentDirectory", r"C:\Windows\system32\"),
        ("User", r"CORP\ada"),
        ("LogonGuid", "{0197231e-b736-6923-645e-3b0000000000}"),
        ("LogonId", "0x3b5e64"),
        ("TerminalSessionId", "1"),
        ("IntegrityLevel", if n.is_multiple_of(3) { "System" } else { "Medium" }),
        ("Hashes", &hashes),
        ("ParentProcessGuid", "{0197231e-5d9b-6929-3f11-000000000d00}"),
        ("ParentProcessId", "1496"),
        ("ParentImage", parent),
        ("ParentCommandLine", &parent_command),
        ("ParentUser", r"NT AUTHORITY\SYSTEM"),
    ];
    rendered(n, SYSMON, 1, &data)
}

/// A mixture as busy hosts with Sysmon and audit policies send it.
pub(crate) fn mixed(n: usize) -> String {
    let [image, _, description, company, _] = PROCESSES[n / 20 % PROCESSES.len()];
    let (id, port) = (format!("{}", 3_000 + n % 20_000), format!("{}", 49_152 + n % 16_000));
    let (hashes, host) = (hashes(n), format!("WS-{:03}.corp.example", n % 400));
    let address = format!("10.20.{}.{}", n % 40, n % 250);
    let who = [
        ("RuleName", "-"),
        ("UtcTime", "2026-11-21 09:05:07.123"),
        ("ProcessGuid", "{0197231e-5d9c-6929-4111-000000000d00}"),
        ("ProcessId", &id),
        ("Image", image),
        ("User", r"CORP\ada"),
    ];
    let sysmon = |event: u32, more: &[(&str, &str)]| rendered(n, SYSMON, event, &[&who[..], more].concat());
    let subject = [
        ("SubjectUserSid", "S-1-5-21-3623811015-3361044348-30300820-1013"),
        ("SubjectUserName", "ada"),
        ("SubjectDomainName", "CORP"),
        ("SubjectLogonId", "0x3b5e64"),
    ];
    let security =
        |event: u32, more: &[(&str, &str)]| rendered(n, SECURITY, event, &[&subject[..], more].concat());
    match n % 20 {
        0 | 1 => process_creation(n / 20),
        2 | 3 => sysmon(
            3,
            &[
                ("Protocol", "tcp"),
                ("Initiated", "true"),
                ("SourceIsIpv6", "false"),
                ("SourceIp", &address),
                ("SourceHostname", &host),
                ("SourcePort", &port),
                ("DestinationIsIpv6", "false"),
                ("DestinationIp", "203.0.113.41"),
                ("DestinationHostname", "edge-41.cdn.example"),
                ("DestinationPort", "443"),
                ("DestinationPortName", "https"),
            ],
        ),
        4..=6 => sysmon(
            7,
            &[
                ("ImageLoaded", r"C:\Windows\System32\bcryptprimitives.dll"),
                ("FileVersion", "10.0.26100.1742 (WinBuild.160101.0800)"),
                ("Description", description),
                ("Company", company),
                ("OriginalFileName", "bcryptprimitives.dll"),
                ("Hashes", &hashes),
                ("Signed", "true"),
                ("Signature", "Microsoft Windows"),
                ("SignatureStatus", "Valid"),
            ],
        ),
        7 => sysmon(
            10,
            &[
                ("SourceImage", image),
                ("TargetImage", r"C:\Windows\System32\svchost.exe"),
                ("GrantedAccess", "0x1400"),
                (
                    "CallTrace",
                    r"C:\Windows\SYSTEM32\ntdll.dll+9d4c4|C:\Windows\System32\KERNELBASE.dll+2c13e|C:\Windows\System32\sysmain.dll+1df2b|C:\Windows\System32\KERNEL32.DLL+17034|C:\Windows\SYSTEM32\ntdll.dll+526a1",
                ),
            ],
        ),
        8 | 9 => sysmon(
            11,
            &[
                (
                    "TargetFilename",
                    r"C:\Users\ada\AppData\Local\Microsoft\Windows\INetCache\IE\7Q2K1XZ\orders[1].json",
                ),
                ("CreationUtcTime", "2026-11-21 09:05:07.121"),
            ],
        ),
        10..=12 => sysmon(
            13,
            &[
                ("EventType", "SetValue"),
                (
                    "TargetObject",
                    r"HKU\S-1-5-21-3623811015-3361044348-30300820-1013\SOFTWARE\Microsoft\Windows\CurrentVersion\Explorer\UserAssist\{CEBFF5CD}\Count\Zvpebfbsg",
                ),
                ("Details", "Binary Data"),
            ],
        ),
        13 => sysmon(
            22,
            &[
                ("QueryName", "settings-win.data.example.com"),
                ("QueryStatus", "0"),
                ("QueryResults", "type:  5 atm-settings.example.net;::ffff:203.0.113.7;"),
            ],
        ),
        14 | 15 => security(
            4624,
            &[
                ("TargetUserSid", "S-1-5-21-3623811015-3361044348-30300820-1013"),
                ("TargetUserName", "ada"),
                ("TargetDomainName", "CORP"),
                ("TargetLogonId", "0x8dcdc"),
                ("LogonType", "3"),
                ("LogonProcessName", "Kerberos"),
                ("AuthenticationPackageName", "Kerberos"),
                ("WorkstationName", "-"),
                ("LogonGuid", "{f09e5f81-9f19-5f11-29b8-8750c7c02be3}"),
                ("KeyLength", "0"),
                ("ProcessName", "-"),
                ("IpAddress", &address),
                ("IpPort", &port),
                ("ImpersonationLevel", "%%1833"),
                ("ElevatedToken", "%%1842"),
            ],
        ),
        16 => security(
            5156,
            &[
                ("Application", r"\device\harddiskvolume3\windows\system32\svchost.exe"),
                ("Direction", "%%14593"),
                ("SourceAddress", &address),
                ("SourcePort", &port),
                ("DestAddress", "203.0.113.41"),
                ("DestPort", "443"),
                ("Protocol", "6"),
                ("LayerName", "%%14611"),
            ],
        ),
        17 => security(
            4663,
            &[
                ("ObjectServer", "Security"),
                ("ObjectType", "File"),
                ("ObjectName", r"D:\Shares\Finance\2026\Q4\forecast.xlsx"),
                ("HandleId", "0x1bc"),
                ("AccessList", "%%4416"),
                ("AccessMask", "0x1"),
                ("ProcessName", r"C:\Program Files\Microsoft Office\root\Office16\EXCEL.EXE"),
            ],
        ),
        18 => rendered(
            n,
            POWERSHELL,
            4104,
            &[
                ("MessageNumber", "1"),
                ("MessageTotal", "1"),
                (
                    "ScriptBlockText",
                    "function Get-Disks { param([string]$Format) Get-CimInstance -ClassName Win32_LogicalDisk -Filter 'DriveType = 3' | Select-Object DeviceID, Size, FreeSpace | ForEach-Object { [pscustomobject]@{ Disk = $_.DeviceID; Free = [math]::Round($_.FreeSpace / 1GB, 1) } } | ConvertTo-Csv -NoTypeInformation }",
                ),
                ("ScriptBlockId", "c1d7e4b0-1c0e-4b3a-a0e6-9a3fb2a1cf10"),
                ("Path", r"C:\Program Files\Inventory\Get-Disks.ps1"),
            ],
        ),
        _ => rendered(
            n,
            SYSTEM,
            7036,
            &[
                ("param1", "Windows Update"),
                ("param2", "running"),
                ("Binary", "770075006100750073006500720076"),
            ],
        ),
    }
}

fn hashes(n: usize) -> String {
    let part = |salt: usize| format!("{:016X}", (n * 7_919 + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let (a, b, c, d) = (part(1), part(2), part(3), part(4));
    format!("SHA1={a}{b}{:.8},MD5={b}{c},SHA256={a}{b}{c}{d},IMPHASH={d}{a}", c)
}

/// Bytes of a rendered message, the text around its fields included.
const MESSAGE_BYTES: usize = 900;

fn rendered(n: usize, (provider, channel): (&str, &str), id: u32, data: &[(&str, &str)]) -> String {
    let mut message = String::from("An event was recorded on this computer.\r\n\r\nDetails:\r\n");
    for (name, value) in data {
        let _ = write!(message, "\t{name}:\t\t{value}\r\n");
    }
    while message.len() < MESSAGE_BYTES {
        message.push_str(
            "\r\nThis event is generated on the computer that was accessed, where the session was created.",
        );
    }
    let data: Vec<String> =
        data.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    format!(
        r##"{{"Event":{{"#attributes":{{"xmlns":"http://schemas.microsoft.com/win/2004/08/events/event"}},"System":{{"Provider":{{"#attributes":{{"Name":"{provider}","Guid":"5770385F-C22A-43E0-BF4C-06F5698FFBD9"}}}},"EventID":{id},"Version":5,"Level":4,"Task":{id},"Opcode":0,"Keywords":"0x8000000000000000","TimeCreated":{{"#attributes":{{"SystemTime":"2026-11-21T09:05:07.123901Z"}}}},"EventRecordID":{record},"Correlation":null,"Execution":{{"#attributes":{{"ProcessID":3544,"ThreadID":4264}}}},"Channel":"{channel}","Computer":"WS-{host:03}.corp.example","Security":{{"#attributes":{{"UserID":"S-1-5-18"}}}}}},"EventData":{{{data}}},"RenderingInfo":{{"Culture":"en-GB","Level":"Information","Message":{message}}}}}}}"##,
        record = 2_584_270 + n,
        host = n % 400,
        data = data.join(","),
        message = quoted(&message),
    )
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
