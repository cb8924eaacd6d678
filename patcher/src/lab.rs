//! What simulated Talos nodes of a lab need to know from the rest of this program.

use ichor_lab::talos::model::{ConfigRules, Line};

use crate::patch::TalosLine;
use crate::patch::conflict::contradictions;

/// The strict reader of machine configs for simulated nodes: they take what the official library of their line takes,
/// and refuse the rest in its words.
#[derive(Debug, Clone, Copy, Default)]
pub struct TalosRules;

impl ConfigRules for TalosRules {
    fn check(&self, config: &str, line: Line) -> Result<(), String> {
        let line = match line {
            Line::V1_11 => TalosLine::V1_11,
            Line::V1_12 => TalosLine::V1_12,
            Line::V1_13 => TalosLine::V1_13,
            Line::V1_14 => TalosLine::V1_14,
        };
        let found = contradictions(config, line).map_err(|error| error.to_string())?;
        let errors: Vec<String> = found.iter().map(|it| format!("\t* {}\n", it.message)).collect();
        match errors.len() {
            0 => Ok(()),
            count => {
                let plural = if count == 1 { "" } else { "s" };
                Err(format!("{count} error{plural} occurred:\n{}\n", errors.concat()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_node_refuses_keys_below_the_first_levels_and_documents_of_newer_lines() {
        let config = "version: v1alpha1\nmachine:\n  type: worker\n  kubelet:\n    nodeIp: {}\ncluster: {}\n";
        let error = TalosRules.check(config, Line::V1_13).unwrap_err();
        assert!(error.contains("nodeIp"), "{error}");
        let config = "apiVersion: v1alpha1\nkind: KubeNodeConfig\n";
        assert_eq!(TalosRules.check(config, Line::V1_14), Ok(()));
        assert!(TalosRules.check(config, Line::V1_13).unwrap_err().contains("not registered"));
    }
}
