//! Text that grows at one end and is forgotten at the other: logs of services, and the kernel's.

use std::collections::VecDeque;

/// Most lines that are kept of one log.
const MAX_LINES: usize = 4096;

/// A log. Every line has a number; the first ever is 0.
#[derive(Debug, Clone, Default)]
pub struct Log {
    lines: VecDeque<String>,
    /// The number of the next line.
    next: u64,
}

impl Log {
    /// Adds a line, with its end.
    pub(crate) fn push(&mut self, line: String) {
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.next += 1;
    }

    /// The number of the next line that is written.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// The number of the line that is `lines` before the end, or of the oldest there is. Negative means the latter.
    pub fn tail(&self, lines: i32) -> u64 {
        let oldest = self.next - self.lines.len() as u64;
        match u64::try_from(lines) {
            Ok(lines) => self.next.saturating_sub(lines).max(oldest),
            Err(_negative) => oldest,
        }
    }

    /// The lines from number `from` on that are still there.
    pub fn since(&self, from: u64) -> impl Iterator<Item = &str> {
        let oldest = self.next - self.lines.len() as u64;
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        self.lines.iter().skip(skip).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: usize) -> Log {
        let mut log = Log::default();
        (0..lines).for_each(|n| log.push(format!("{n}\n")));
        log
    }

    #[test]
    fn a_tail_of_zero_lines_is_empty_and_a_negative_one_is_everything() {
        let log = log(3);
        assert_eq!(log.since(log.tail(0)).count(), 0);
        assert_eq!(log.since(log.tail(2)).collect::<String>(), "1\n2\n");
        assert_eq!(log.since(log.tail(9)).count(), 3);
        assert_eq!(log.since(log.tail(-1)).count(), 3);
    }

    #[test]
    fn a_log_forgets_its_beginning_and_keeps_its_numbers() {
        let log = log(MAX_LINES + 10);
        assert_eq!(log.since(0).next(), Some("10\n"));
        assert_eq!(log.since(log.end() - 1).count(), 1);
    }
}
