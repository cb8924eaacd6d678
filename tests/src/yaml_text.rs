//! YAML texts at the edges of the grammar, for comparing parsers.

use crate::random::Random;

const PIECES: &[&str] = &[
    "a: 1",
    "b: [1, 2]",
    "c: {x: y}",
    "- x",
    "- - y",
    "? k",
    ": v",
    "a:",
    "key: \"q\\n\"",
    "k: 'it''s'",
    "t: |\n  text\n  more",
    "f: >-\n  folded\n  text",
    "# comment",
    "x: y # c",
    "&a v",
    "*a",
    "m: &b {q: 1}",
    "n: *b",
    "<<: *b",
    "---",
    "...",
    "--- text",
    "%YAML 1.1",
    "%YAML 1.2",
    "%TAG ! tag:x,2000:",
    "!!str 1",
    "!t v",
    "- !!int \"3\"",
    "\tx: 1",
    "a:\t1",
    "- \t- b",
    "{a: 1, b}",
    "[a, b: c]",
    "[a,\n b]",
    "{a: 1,\n b: 2}",
    "{\"a\":1}",
    "[]",
    "{}",
    "a: b: c",
    "\"multi\n line\"",
    "plain\n  continued",
    "k: - x",
    "é: ü",
    "k: @x",
    "k: `x",
    "k: %x",
    "k: a#b",
    "k: a #b",
    "- ",
    "-",
    "?",
    ":",
    "a:b",
    "- a: 1\n  b: 2",
    "  - x",
    "    y: 1",
    "k: |2\n   x",
    "k: |+\n  x\n",
    "k: \"\\x41\\u00e9\"",
    "k: \"\\q\"",
    "k: 'open",
    "k: \"open",
    "k: [open",
    "k: {open",
    "]",
    "}",
    ",",
    "k: ]",
    "0: 1",
    "? [a]\n: b",
    "? {a: b}\n: c",
    "k: !!binary aGk=",
    "k: !<tag:yaml.org,2002:str> 1",
    "k: ! 12",
    "\"k\": v",
    "'k': v",
    "k: &x",
    "k: &x\n  a: *x",
    "&k a: b",
    "*k : v",
    "k: *",
    "k: &",
    "k: !",
    "\u{feff}a: 1",
    "k: \u{85}x",
    "k: a\u{2028}b",
    "k: \u{7f}",
    "k: \u{1}",
    "a: |\n\n  x\n y",
    "- |\n x\n- y",
    "<<: [*a, *b]",
    "<< : 1",
    "\"<<\": 1",
    "k: <<",
    "a: [?x, b]",
    "a: {?x: 1}",
    "a: [:x]",
    "a: {b:c, d:,e: f}",
    "a: [b:,c]",
    "&a.b x: 1",
    "k: *a.b",
    "k: !x,y z",
    "[!x, a]",
    "a:\n- x\n- y",
    "a:\n  - x\n - y",
    "a: 1\n b: 2",
    " a: 1\nb: 2",
];

/// A text made of a few pieces, joined and then perhaps damaged.
pub fn text(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    let newline = if random.chance(1, 8) { "\r\n" } else { "\n" };
    for _ in 0..=random.below(4) {
        let indent = if random.chance(1, 6) { " ".repeat(random.below(5)) } else { String::new() };
        for line in random.pick(PIECES).split('\n') {
            out.push_str(&indent);
            out.push_str(line);
            out.push_str(newline);
        }
    }
    if random.chance(1, 6) {
        out.truncate(out.trim_end().len());
    }
    let mut bytes = out.into_bytes();
    for _ in 0..random.below(4).saturating_sub(1) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            1 => bytes.insert(at, *random.pick(b" \n\t:-#[]{},&*!|>'\"%@`?~")),
            2 if bytes.len() > 1 => {
                let other = random.below(bytes.len());
                bytes.swap(at, other);
            }
            _ => {}
        }
    }
    bytes
}
