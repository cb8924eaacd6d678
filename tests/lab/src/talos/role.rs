//! Who may do what.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A role: an organization in a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading, and operating what runs.
    Operator,
    /// Reading what is not secret.
    Reader,
    /// Snapshots of etcd.
    EtcdBackup,
    /// Speaking for others: what nodes are to each other.
    Impersonator,
}

impl Role {
    const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::Reader, Self::EtcdBackup, Self::Impersonator];

    /// As certificates and headers write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "os:admin",
            Self::Operator => "os:operator",
            Self::Reader => "os:reader",
            Self::EtcdBackup => "os:etcd:backup",
            Self::Impersonator => "os:impersonator",
        }
    }

    /// The role called `name`. Others mean nothing, and are no error.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The roles that a client's certificate gives.
    pub(crate) fn of_certificate(der: &[u8]) -> Vec<Self> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
        let names = certificate.subject().iter_organization();
        names.filter_map(|name| Self::of(name.as_str().ok()?)).collect()
    }
}

use Role::{Admin, EtcdBackup, Operator, Reader};

const ADMIN: &[Role] = &[Admin];
const OPERATORS: &[Role] = &[Admin, Operator];
const READERS: &[Role] = &[Admin, Operator, Reader];

/// The roles of which one is needed for a method, by its path. Talos: internal/app/apid and machined, api rules.
pub(crate) fn needed(path: &str) -> &'static [Role] {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { return ADMIN };
    match (service, method) {
        ("machine.MachineService", method) => machine(method),
        ("cosi.resource.State", "Get" | "List" | "Watch") => READERS,
        ("cluster.ClusterService", "HealthCheck") => READERS,
        ("time.TimeService" | "inspect.InspectService", _) => READERS,
        ("storage.StorageService", "Disks") => READERS,
        ("machine.ImageService", "List") => READERS,
        ("machine.ImageService", "Pull" | "Verify") => OPERATORS,
        _ => ADMIN,
    }
}

fn machine(method: &str) -> &'static [Role] {
    match method {
        "EtcdMemberList" | "EtcdStatus" | "EtcdAlarmList" => &[Admin, Operator, Reader, EtcdBackup],
        "EtcdSnapshot" => &[Admin, Operator, EtcdBackup],
        "EtcdAlarmDisarm" | "EtcdDefragment" | "ImagePull" | "PacketCapture" | "Reboot" | "Shutdown"
        | "Restart" | "ServiceStart" | "ServiceStop" | "ServiceRestart" => OPERATORS,
        "CPUInfo" | "CPUFreqStats" | "Containers" | "DiskStats" | "DiskUsage" | "Dmesg" | "Events"
        | "Hostname" | "ImageList" | "List" | "LoadAvg" | "Logs" | "LogsContainers" | "Memory" | "Mounts"
        | "Netstat" | "NetworkDeviceStats" | "Processes" | "ServiceList" | "Stats" | "SystemStat"
        | "Version" => READERS,
        _ => ADMIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_reads_and_changes_nothing() {
        for method in ["Version", "ServiceList", "Logs", "EtcdStatus"] {
            assert!(needed(&format!("/machine.MachineService/{method}")).contains(&Reader), "{method}");
        }
        for method in ["ApplyConfiguration", "Reboot", "Read", "Kubeconfig", "EtcdSnapshot", "NoSuchMethod"] {
            assert!(!needed(&format!("/machine.MachineService/{method}")).contains(&Reader), "{method}");
        }
        assert!(needed("/machine.MachineService/Reboot").contains(&Operator));
        assert_eq!(needed("/cosi.resource.State/Update"), ADMIN);
        assert_eq!(needed("nonsense"), ADMIN);
    }
}
