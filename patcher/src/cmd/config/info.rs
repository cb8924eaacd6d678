//! `config info`: what a context is, and how long its certificate lasts.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::parse_x509_certificate;

use crate::exit::Exit;
use crate::output::{Format, Output, escape};
use crate::talosconfig::{Context, TalosConfig};

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    context: String,
    nodes: Vec<String>,
    endpoints: Vec<String>,
    roles: Vec<String>,
    cert_not_after: Option<String>,
    #[serde(skip)]
    expires: Option<OffsetDateTime>,
}

pub(super) fn run(config: &TalosConfig, context: Option<&str>, format: Format) -> anyhow::Result<Exit> {
    let info = Info::new(config.context(context)?)?;
    Output::new(format).record(&info, |info| info.text(OffsetDateTime::now_utc()))?;
    Ok(Exit::Done)
}

impl Info {
    fn new(context: Context) -> anyhow::Result<Self> {
        let mut info = Self {
            context: context.name,
            nodes: context.nodes,
            endpoints: context.endpoints,
            roles: Vec::new(),
            cert_not_after: None,
            expires: None,
        };
        if let Some(certificate) = context.credentials.client.as_ref().and_then(|client| client.chain.first())
        {
            let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| {
                anyhow::anyhow!("the client certificate of context {:?} cannot be read", info.context)
            })?;
            let organizations = certificate.subject().iter_organization();
            info.roles = organizations.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
            let expires = certificate.validity().not_after.to_datetime();
            info.cert_not_after = expires.format(&Rfc3339).ok();
            info.expires = Some(expires);
        }
        Ok(info)
    }

    fn text(&self, now: OffsetDateTime) -> String {
        let list =
            |items: &[String]| if items.is_empty() { "not defined".to_owned() } else { items.join(", ") };
        let mut lines = vec![
            ("Current context:", self.context.clone()),
            ("Nodes:", list(&self.nodes)),
            ("Endpoints:", list(&self.endpoints)),
        ];
        if !self.roles.is_empty() {
            lines.push(("Roles:", self.roles.join(", ")));
        }
        if let Some(expires) = self.expires {
            lines.push(("Certificate expires:", format!("{} ({})", distance(expires, now), expires.date())));
        }
        lines.into_iter().map(|(label, value)| format!("{label:<20} {}\n", escape(&value))).collect()
    }
}

/// How far away a moment is, in its largest unit.
fn distance(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let (then, now) = (SystemTime::from(moment), SystemTime::from(now));
    let (distance, suffix) = match then.duration_since(now) {
        Ok(ahead) => (ahead, "from now"),
        Err(error) => (error.duration(), "ago"),
    };
    let day = Duration::from_secs(24 * 3600);
    let units = [("year", day * 365), ("day", day), ("hour", day / 24), ("minute", day / 1440)];
    let fitting = units.iter().find(|(_, unit)| distance >= *unit);
    match fitting.map(|(name, unit)| (distance.as_secs() / unit.as_secs(), *name)) {
        Some((1, name)) => format!("1 {name} {suffix}"),
        Some((count, name)) => format!("{count} {name}s {suffix}"),
        None => "now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_certificate_is_told_in_its_largest_unit() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let hours = |hours: i64| distance(now + time::Duration::hours(hours), now);
        assert_eq!(hours(24 * 364), "364 days from now");
        assert_eq!(hours(24 * 365), "1 year from now");
        assert_eq!(hours(-3), "3 hours ago");
        assert_eq!(hours(0), "now");
    }

    #[test]
    fn a_context_without_a_certificate_has_neither_roles_nor_an_end() {
        let config = TalosConfig::parse("context: a\ncontexts: {a: {endpoints: [10.0.0.2]}}").unwrap();
        let info = Info::new(config.context(None).unwrap()).unwrap();
        let text = info.text(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(
            text,
            "Current context:     a\nNodes:               not defined\nEndpoints:           10.0.0.2\n"
        );
    }
}
