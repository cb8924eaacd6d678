//! Medians and ratios.

use serde::Serialize;

use super::measure::Round;

/// Medians of a contender, and how far its throughput spread.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Rounds that are behind the medians.
    pub rounds: usize,
    /// The medians.
    #[serde(flatten)]
    pub median: Round,
    /// (Largest - smallest) / median of the one stream.
    pub spread: f64,
}

impl Row {
    /// Over the rounds of one contender.
    pub fn new(name: &'static str, rounds: &[Round]) -> Self {
        let median = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let streams = || rounds.iter().map(|round| round.stream);
        let spread = streams().fold(0.0, f64::max) - streams().fold(f64::INFINITY, f64::min);
        Self {
            name,
            rounds: rounds.len(),
            spread: spread / median(|round| round.stream),
            median: Round {
                stream: median(|round| round.stream),
                reverse: median(|round| round.reverse),
                streams: median(|round| round.streams),
                cpu_per_gb: median(|round| round.cpu_per_gb),
                machine_per_gb: median(|round| round.machine_per_gb),
                datagrams: median(|round| round.datagrams),
                idle_ping: median(|round| round.idle_ping),
                idle_ping_max: median(|round| round.idle_ping_max),
                flood_ping: median(|round| round.flood_ping),
                rss: median(|round| round.rss),
            },
        }
    }
}

/// The middle of some figures; of an even number the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

/// For people, in Markdown. Ratios are to the first row of ichord.
pub fn table(rows: &[Row]) -> String {
    let base = rows.iter().find(|row| row.name.starts_with("ichord"));
    let mut text = String::from(
        "| | 1 stream Gbit/s | spread | reverse | 4 streams | CPU-s/GB both | machine CPU-s/GB | 100 B UDP pps \
         | idle ping avg / max ms | flood ping ms | RSS MiB | ichord: stream | CPU | UDP |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { name, median, spread, .. } = row;
        let ratios = match base {
            Some(base) if !name.starts_with("ichord") && *name != "veth" => format!(
                "{:.1}x | {:.2} | {:.1}x",
                base.median.stream / median.stream,
                base.median.cpu_per_gb / median.cpu_per_gb,
                base.median.datagrams / median.datagrams
            ),
            _ => "| |".into(),
        };
        text += &format!(
            "| {name} | {:.2} | {:.0} % | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.3} / {:.2} | {:.3} | {:.1} | {ratios} |\n",
            median.stream,
            spread * 100.0,
            median.reverse,
            median.streams,
            median.cpu_per_gb,
            median.machine_per_gb,
            median.datagrams,
            median.idle_ping,
            median.idle_ping_max,
            median.flood_ping,
            median.rss,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle_and_the_spread_is_relative_to_them() {
        let round = |stream| Round { stream, ..Round::default() };
        let row = Row::new("ichord run", &[round(3.0), round(1.0), round(2.0)]);
        assert!((row.median.stream - 2.0).abs() < f64::EPSILON && (row.spread - 1.0).abs() < f64::EPSILON);
        let row = Row::new("ichord run", &[round(3.0), round(1.0), round(2.0), round(6.0)]);
        assert!((row.median.stream - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn ratios_say_how_many_times_ichord_is_ahead() {
        let round = |stream, cpu_per_gb| Round { stream, cpu_per_gb, datagrams: 1.0, ..Round::default() };
        let rows = [Row::new("ichord tunnel", &[round(6.0, 1.0)]), Row::new("gotatun", &[round(2.0, 4.0)])];
        assert!(table(&rows).contains("| 3.0x | 0.25 | 1.0x |"), "{}", table(&rows));
    }
}
