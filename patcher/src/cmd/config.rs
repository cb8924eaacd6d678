//! `config`: the talosconfig.

mod context;
mod info;
mod new;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::connection::Connection;
use crate::exit::{Exit, UsageError};
use crate::output::{self, Format};
use crate::talosconfig::{Environment, NewContext, TalosConfig, TalosConfigError};

/// Certificates and keys have a few kilobytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Flags of `config`.
#[derive(Args, Debug)]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a context, or replace one
    #[command(
        after_help = "Examples:\n  ichorctl config add home --ca ca.crt --crt admin.crt --key admin.key\n  \
                            ichorctl config add proxy --ca ca.crt"
    )]
    Add {
        /// Its name
        name: String,
        /// File with the CA certificate
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// File with the client certificate
        #[arg(long, value_name = "FILE", requires = "key")]
        crt: Option<PathBuf>,
        /// File with the client key
        #[arg(long, value_name = "FILE", requires = "crt")]
        key: Option<PathBuf>,
    },
    /// Choose the current context
    #[command(visible_alias = "use-context")]
    #[command(after_help = "Examples:\n  ichorctl config context home\n  ichorctl config use-context work")]
    Context {
        /// Its name
        name: String,
    },
    /// List the contexts
    #[command(visible_alias = "get-contexts")]
    #[command(after_help = "Examples:\n  ichorctl config contexts\n  ichorctl config contexts -o json")]
    Contexts {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Set the endpoints of the current context
    #[command(visible_alias = "endpoints")]
    #[command(after_help = "Examples:\n  ichorctl config endpoint 10.0.0.2 10.0.0.3\n  \
                            ichorctl config endpoint https://talos.example.com")]
    Endpoint {
        /// Hosts, with ports if they are not 50000
        #[arg(required = true, value_name = "ENDPOINT")]
        hosts: Vec<String>,
    },
    /// Show the current context
    #[command(
        after_help = "Examples:\n  ichorctl config info\n  ichorctl config info --context work -o json"
    )]
    Info {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Take over the contexts of another talosconfig; names that are taken get a number
    #[command(after_help = "Examples:\n  ichorctl config merge ./talosconfig\n  \
                            ichorctl config merge /mnt/key/talosconfig --talosconfig ~/.talos/config")]
    Merge {
        /// The other file
        from: PathBuf,
    },
    /// Have a control plane node make a new client certificate
    #[command(after_help = "Examples:\n  ichorctl config new -n 10.0.0.2 reader.yaml --roles os:reader\n  \
                            ichorctl config new -n 10.0.0.2 --crt-ttl 24h")]
    New(new::New),
    /// Set the nodes of the current context
    #[command(visible_alias = "nodes")]
    #[command(after_help = "Examples:\n  ichorctl config node 10.0.0.2 10.0.0.3\n  ichorctl config node")]
    Node {
        /// Bare addresses or names; none removes the setting
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Show or set the proxy of the current context
    #[command(after_help = "Examples:\n  ichorctl config proxy-url http://proxy:3128\n  \
                            ichorctl config proxy-url direct")]
    ProxyUrl {
        /// A URL, `direct`, or nothing between quotes to remove it; without it the setting is shown
        url: Option<String>,
    },
    /// Remove contexts, but never the current one
    #[command(after_help = "Examples:\n  ichorctl config remove old\n  ichorctl config remove 'test-*' -y")]
    Remove(context::Remove),
}

impl Config {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the talosconfig cannot be read or written.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let context = connection.context.as_deref();
        let edit = |change: &mut dyn FnMut(&mut TalosConfig) -> Result<(), TalosConfigError>| {
            let mut config = connection.talosconfig()?;
            change(&mut config)?;
            config.save()?;
            Ok(Exit::Done)
        };
        match self.command {
            Command::Add { name, ca, crt, key } => add(connection, &name, ca, crt.zip(key)),
            Command::Context { name } => edit(&mut |config| config.set_current(&name)),
            Command::Contexts { output } => context::list(&connection.talosconfig()?, output),
            Command::Endpoint { hosts } => {
                edit(&mut |config| config.set_endpoints(context, &trimmed(&hosts)))
            }
            Command::Info { output } => info::run(&connection.talosconfig()?, context, output),
            Command::Merge { from } => merge(connection, &from),
            Command::New(new) => new.run(connection).await,
            Command::Node { nodes } => edit(&mut |config| config.set_nodes(context, &trimmed(&nodes))),
            Command::ProxyUrl { url: Some(url) } => edit(&mut |config| config.set_proxy(context, url.trim())),
            Command::ProxyUrl { url: None } => context::show_proxy(&connection.talosconfig()?, context),
            Command::Remove(remove) => remove.run(connection.talosconfig()?),
        }
    }
}

fn add(
    connection: &Connection,
    name: &str,
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
) -> anyhow::Result<Exit> {
    if name.is_empty() {
        return Err(UsageError("a context needs a name".to_owned()).into());
    }
    let read = |path: PathBuf| {
        let text = crate::files::read_bounded(&path, MAX_PEM_BYTES);
        text.map(zeroize::Zeroizing::new).with_context(|| format!("failed to read {}", path.display()))
    };
    let ca = ca.map(read).transpose()?;
    let client = client.map(|(crt, key)| anyhow::Ok((read(crt)?, read(key)?))).transpose()?;
    let mut config = open_or_new(connection)?;
    config.add(
        name,
        NewContext {
            ca: ca.as_ref().map(|text| text.as_bytes()),
            client: client.as_ref().map(|(crt, key)| (crt.as_bytes(), key.as_bytes())),
        },
    );
    config.save()?;
    Ok(Exit::Done)
}

fn merge(connection: &Connection, from: &std::path::Path) -> anyhow::Result<Exit> {
    let mut config = open_or_new(connection)?;
    let other = TalosConfig::open(Some(from), &Environment::from_process())?;
    for rename in config.merge(&other) {
        output::note(&format!("renamed talosconfig context {:?} -> {:?}", rename.from, rename.to));
    }
    config.save()?;
    Ok(Exit::Done)
}

fn open_or_new(connection: &Connection) -> Result<TalosConfig, TalosConfigError> {
    TalosConfig::open_or_new(connection.talosconfig.as_deref(), &Environment::from_process())
}

fn trimmed(items: &[String]) -> Vec<String> {
    items.iter().map(|item| item.trim().to_owned()).collect()
}
