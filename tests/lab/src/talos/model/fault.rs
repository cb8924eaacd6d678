//! What goes wrong with a node that has nothing to do with its config.

use std::time::Duration;

use tonic::Code;

use super::image::SystemFault;
use super::refusal::Refusal;

/// What is wrong with a node. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Its port takes connections, and nobody answers.
    pub dead: bool,
    /// So it is while its config drops what no rule of its firewall allows: the rules have left out whoever calls.
    pub shut_out: bool,
    /// Its etcd starts so long after each boot.
    pub etcd_delay: Duration,
    /// It takes so much longer to boot.
    pub boot_delay: Duration,
    /// What goes wrong with each system that is installed on it, from now until one is settled.
    pub new_system: Option<SystemFault>,
    /// Calls that are lost.
    pub lost: Option<Lost>,
    /// What it answers to every call for a while after each boot.
    pub early: Option<(Code, Duration)>,
}

/// Calls that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The method, such as `Reboot`; all methods without it.
    pub method: Option<String>,
    /// Whether the call is carried out, and only its reply is lost.
    pub after: bool,
    /// How many are still to be lost.
    pub times: u32,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It never arrives.
    LostRequest,
    /// It is carried out, and nobody hears of it.
    LostReply,
    /// It is refused for no reason of its own.
    Refused(Refusal),
}

impl Faults {
    /// What becomes of a call of `method` to a node that booted so long ago.
    pub(crate) fn fate(&mut self, method: &str, since_boot: Duration) -> Fate {
        let is_meant =
            |lost: &&mut Lost| lost.times > 0 && lost.method.as_deref().is_none_or(|wanted| wanted == method);
        if let Some(lost) = self.lost.as_mut().filter(is_meant) {
            lost.times -= 1;
            return if lost.after { Fate::LostReply } else { Fate::LostRequest };
        }
        match self.early {
            Some((code, window)) if since_boot < window => {
                let text = match code {
                    Code::Unimplemented => "method not implemented",
                    _ => "not authorized",
                };
                Fate::Refused(Refusal::new(code, text))
            }
            _ => Fate::Answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_are_lost_as_often_as_is_said_and_only_those_that_are_meant() {
        let lost = Lost { method: Some("Reboot".to_owned()), after: true, times: 2 };
        let mut faults = Faults { lost: Some(lost), ..Faults::default() };
        assert_eq!(faults.fate("Version", SECOND), Fate::Answered);
        for expected in [Fate::LostReply, Fate::LostReply, Fate::Answered] {
            assert_eq!(faults.fate("Reboot", SECOND), expected);
        }
    }

    #[test]
    fn a_node_is_confused_only_right_after_its_boot() {
        let mut faults = Faults { early: Some((Code::PermissionDenied, SECOND)), ..Faults::default() };
        assert!(matches!(faults.fate("Version", SECOND / 2), Fate::Refused(_)));
        assert_eq!(faults.fate("Version", SECOND), Fate::Answered);
    }
}
