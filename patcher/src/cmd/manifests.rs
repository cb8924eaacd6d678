//! `manifests`: what runs this program inside a cluster, as a Kubernetes Job or CronJob.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::exit::{Exit, UsageError};
use crate::files::read_bounded;
use crate::kubernetes::lease;
use crate::output::{Format, Output};

/// Where the files are in the container.
const FILES: &str = "/etc/ichor";
/// Where Talos' credentials are looked for (Talos: `constants.ServiceAccountMountPath`).
const TALOS_SECRETS: &str = "/var/run/secrets/talos.dev";
/// An account that is nobody's.
const NOBODY: u32 = 65532;
/// What fits into a ConfigMap with some room.
const MAX_FILE_BYTES: u64 = 512 << 10;
/// Commands that run without anybody looking on.
const COMMANDS: [&str; 2] = ["apply", "upgrade"];

/// Flags of `manifests`.
#[derive(Args, Debug)]
pub struct ManifestsArgs {
    /// The image with this program, best with its digest
    #[arg(long, value_name = "REFERENCE")]
    image: String,
    /// Run at these times: a CronJob, as in "0 3 * * 6"
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
    /// A file for the container, such as ichor.yaml: found in /etc/ichor
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The namespace of everything
    #[arg(long, default_value = "ichor-system")]
    namespace: String,
    /// The name of everything
    #[arg(long, default_value = "ichorctl")]
    name: String,
    /// What is run: apply or upgrade with its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl ManifestsArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the arguments make no manifests, a file cannot be read, or there is nowhere to print.
    pub fn run(&self) -> anyhow::Result<Exit> {
        let files = self.files.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
        Output::new(Format::Text).raw(self.text(&files)?.as_bytes())?;
        Ok(Exit::Done)
    }

    fn text(&self, files: &[(String, String)]) -> anyhow::Result<String> {
        self.check()?;
        let mut text = format!(
            "# The control plane nodes have to let pods of this namespace use the Talos API. Since Talos 1.14:\n#\n\
             #   apiVersion: v1alpha1\n#   kind: KubeTalosAPIAccessConfig\n#   allowedRoles: [os:admin]\n\
             #   allowedKubernetesNamespaces: [{namespace}]\n#\n# and before:\n#\n#   machine:\n#     features:\n\
             #       kubernetesTalosAPIAccess:\n#         enabled: true\n#         allowedRoles: [os:admin]\n\
             #         allowedKubernetesNamespaces: [{namespace}]\n",
            namespace = self.namespace
        );
        for object in self.objects(files) {
            text.push_str("---\n");
            text.push_str(&yaml_serde::to_string(&object).context("failed to write the manifests as YAML")?);
        }
        Ok(text)
    }

    fn check(&self) -> anyhow::Result<()> {
        let is_label = |text: &str| {
            let is_middle = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            (1..=40).contains(&text.len())
                && text.bytes().all(is_middle)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        for (what, text) in [("namespace", &self.namespace), ("name", &self.name)] {
            if !is_label(text) {
                let hint = "lower-case letters, digits and hyphens, 40 at most";
                return Err(UsageError(format!("{text:?} cannot be a {what}: {hint}")).into());
            }
        }
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            return Err(UsageError(format!("{:?} is no image", self.image)).into());
        }
        let is_schedule = |text: &&String| text.starts_with('@') || text.split_whitespace().count() == 5;
        if let Some(wrong) = self.schedule.as_ref().filter(|text| !is_schedule(text)) {
            return Err(
                UsageError(format!("{wrong:?} is no schedule: five fields, or @daily and the like")).into()
            );
        }
        match self.command.iter().find(|word| !word.starts_with('-')) {
            Some(first) if COMMANDS.contains(&&**first) => Ok(()),
            _ => Err(UsageError(format!("after -- comes one of: {}", COMMANDS.join(", "))).into()),
        }
    }

    fn objects(&self, files: &[(String, String)]) -> Vec<Value> {
        let mut objects = vec![
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {
                    "name": self.namespace,
                    "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                },
            }),
            json!({
                "apiVersion": "talos.dev/v1alpha1", "kind": "ServiceAccount",
                "metadata": self.metadata(), "spec": {"roles": ["os:admin"]},
            }),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata()}),
        ];
        objects.extend(self.access());
        if !files.is_empty() {
            let data: serde_json::Map<_, _> =
                files.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
            objects.push(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata(), "data": data,
            }));
        }
        let job = self.job(!files.is_empty());
        objects.push(match &self.schedule {
            None => json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": self.metadata(), "spec": job,
            }),
            Some(schedule) => json!({
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": self.metadata(),
                "spec": {"schedule": schedule, "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job}},
            }),
        });
        objects
    }

    fn metadata(&self) -> Value {
        json!({"name": self.name, "namespace": self.namespace})
    }

    /// What the program may do in Kubernetes: the lock, nodes, and evictions.
    fn access(&self) -> Vec<Value> {
        let account = json!([{"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}]);
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let mut own = rule("coordination.k8s.io", "leases", &["get", "update"]);
        own["resourceNames"] = json!([lease::NAME]);
        let group = "rbac.authorization.k8s.io";
        let version = format!("{group}/v1");
        // Names of the cluster's own objects are everybody's: they carry the namespace.
        let cluster_name = format!("{}-{}", self.namespace, self.name);
        let local = json!({"name": cluster_name, "namespace": lease::NAMESPACE});
        let global = json!({"name": cluster_name});
        vec![
            json!({
                "apiVersion": version, "kind": "Role", "metadata": local,
                "rules": [rule("coordination.k8s.io", "leases", &["create"]), own],
            }),
            json!({
                "apiVersion": version, "kind": "RoleBinding", "metadata": local, "subjects": account,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": cluster_name},
            }),
            json!({
                "apiVersion": version, "kind": "ClusterRole", "metadata": global,
                "rules": [
                    rule("", "nodes", &["get", "list", "patch"]),
                    rule("", "pods", &["list"]),
                    rule("", "pods/eviction", &["create"]),
                ],
            }),
            json!({
                "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": global, "subjects": account,
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": cluster_name},
            }),
        ]
    }

    fn job(&self, has_files: bool) -> Value {
        let mut mounts = vec![
            json!({"name": "talos", "mountPath": TALOS_SECRETS, "readOnly": true}),
            json!({"name": "home", "mountPath": "/home/ichor"}),
        ];
        let mut volumes = vec![
            json!({"name": "talos", "secret": {"secretName": self.name, "defaultMode": 0o440}}),
            json!({"name": "home", "emptyDir": {}}),
        ];
        if has_files {
            mounts.push(json!({"name": "files", "mountPath": FILES, "readOnly": true}));
            volumes.push(json!({"name": "files", "configMap": {"name": self.name}}));
        }
        json!({
            "backoffLimit": 3,
            // A wrong command line, a refusal or an unproven step is for people to look at. A pod that was evicted, as
            // when its own node is drained, goes on elsewhere.
            "podFailurePolicy": {"rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "ichorctl", "operator": "In", "values": [2, 3, 4]},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": self.name}},
                "spec": {
                    "serviceAccountName": self.name,
                    "restartPolicy": "Never",
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": NOBODY, "runAsGroup": NOBODY, "fsGroup": NOBODY,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "ichorctl",
                        "image": self.image,
                        "command": ["ichorctl"],
                        "args": self.command,
                        "workingDir": "/home/ichor",
                        "env": [{"name": "HOME", "value": "/home/ichor"}],
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": mounts,
                    }],
                    "volumes": volumes,
                },
            },
        })
    }
}

/// The name and the text of a file.
fn read(path: &Path) -> anyhow::Result<(String, String)> {
    let shown = path.display();
    let is_key = |name: &&str| name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let name = path.file_name().and_then(|name| name.to_str()).filter(is_key);
    let name = name.ok_or_else(|| UsageError(format!("{shown} has a name that no ConfigMap can have")))?;
    let text = read_bounded(path, MAX_FILE_BYTES).with_context(|| format!("failed to read {shown}"))?;
    Ok((name.to_owned(), text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use k8s_openapi::api::batch::v1::{CronJob, Job};
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::exit::exit_of;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        manifests: ManifestsArgs,
    }

    fn parse(args: &[&str]) -> ManifestsArgs {
        Command::try_parse_from([&["manifests"], args].concat()).unwrap().manifests
    }

    const ARGS: [&str; 7] =
        ["--image", "r.example/ichorctl@sha256:00", "--", "upgrade", "--to", "v1.14.2", "--yes"];

    fn objects(text: &str) -> Vec<Value> {
        let documents = yaml_serde::Deserializer::from_str(text);
        documents.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
    }

    /// Reads an object as Kubernetes does, and makes sure that it knows every field.
    fn known<T: DeserializeOwned + Serialize>(object: &Value) -> T {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), *object);
        typed
    }

    #[test]
    fn every_field_is_one_that_kubernetes_knows() {
        let scheduled = [&["--schedule", "0 3 * * 6"], &ARGS[..]].concat();
        let files = [("ichor.yaml".to_owned(), "nodes: []\n".to_owned())];
        for text in [parse(&ARGS).text(&[]).unwrap(), parse(&scheduled).text(&files).unwrap()] {
            for object in objects(&text) {
                match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
                    ("v1", "Namespace") => drop(known::<Namespace>(&object)),
                    ("v1", "ServiceAccount") => drop(known::<ServiceAccount>(&object)),
                    ("v1", "ConfigMap") => drop(known::<ConfigMap>(&object)),
                    (_, "Role") => drop(known::<Role>(&object)),
                    (_, "RoleBinding") => drop(known::<RoleBinding>(&object)),
                    (_, "ClusterRole") => drop(known::<ClusterRole>(&object)),
                    (_, "ClusterRoleBinding") => drop(known::<ClusterRoleBinding>(&object)),
                    ("batch/v1", "Job") => drop(known::<Job>(&object)),
                    ("batch/v1", "CronJob") => drop(known::<CronJob>(&object)),
                    // Talos: internal/app/machined/pkg/controllers/kubeaccess.
                    ("talos.dev/v1alpha1", "ServiceAccount") => {
                        assert_eq!(object["spec"]["roles"], json!(["os:admin"]))
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn the_manifests_are_as_they_were() {
        let text = parse(&ARGS).text(&[]).unwrap();
        assert_eq!(text, include_str!("../../tests/fixtures/manifests.yaml"));
    }

    #[test]
    fn a_pod_finds_the_credentials_of_talos_where_the_program_looks_for_them() {
        let job = parse(&ARGS).job(false);
        let pod = &job["template"]["spec"];
        let home = tempfile::tempdir().unwrap();
        // The environment of the container, with its home somewhere else.
        let environment = crate::talosconfig::Environment::from_variables(|name| {
            let variables = pod["containers"][0]["env"].as_array().unwrap();
            let variable = variables.iter().find(|variable| variable["name"] == name)?;
            let value = variable["value"].as_str().unwrap();
            Some(if name == "HOME" { home.path().as_os_str().to_owned() } else { value.into() })
        });
        let mount = &pod["containers"][0]["volumeMounts"][0];
        assert_eq!(mount["mountPath"], environment.service_account.to_str().unwrap());
        assert_eq!(
            (&mount["name"], &pod["volumes"][0]["secret"]["secretName"]),
            (&json!("talos"), &json!("ichorctl"))
        );
    }

    #[test]
    fn files_come_along() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ichor.yaml");
        std::fs::write(&path, "nodes: []\n").unwrap();
        let text = parse(&ARGS).text(&[read(&path).unwrap()]).unwrap();
        let objects = objects(&text);
        let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        assert_eq!(map["data"]["ichor.yaml"], "nodes: []\n");
        let job = objects.iter().find(|object| object["kind"] == "Job").unwrap();
        assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][2]["mountPath"], FILES);
        assert!(read(&directory.path().join("no such")).is_err());
    }

    #[test]
    fn what_makes_no_manifests_is_a_usage_error() {
        for args in [
            &["--image", "a b", "--", "apply"][..],
            &["--image", "a", "--namespace", "Big", "--", "apply"],
            &["--image", "a", "--schedule", "sometimes", "--", "apply"],
            &["--image", "a", "--", "reset"],
            &["--image", "a", "--", "--yes"],
        ] {
            let error = parse(args).text(&[]).unwrap_err();
            assert_eq!(exit_of(&error), Exit::Usage, "{args:?}: {error}");
        }
        assert!(Command::try_parse_from(["manifests", "--image", "a"]).is_err(), "nothing to run");
    }
}
