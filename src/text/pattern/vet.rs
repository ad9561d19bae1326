//! Checks a regular expression before it is compiled.
//!
//! The reference library compiles patterns with Oniguruma in Ruby's syntax, Longshore with
//! fancy-regex. Most constructs in tokenizer files mean the same in both. The others are rewritten
//! here or refused by name: a pattern that splits texts at different places would give different
//! tokens without an error.

/// Maximum bytes of a pattern. The longest published one has about 500.
const PATTERN_BYTES: usize = 4096;
/// Maximum count of a repetition.
const REPEAT: u32 = 256;
/// Maximum nesting of groups and classes.
const DEPTH: usize = 16;
/// Maximum items of variable length in a branch that needs backtracking.
const VARIABLE_ITEMS: usize = 6;

/// Oniguruma's word characters. The `\w` of Rust also has the two joiners.
const WORD: &str = r"\p{L}\p{M}\p{Nd}\p{Pc}";

/// A pattern that means the same in both engines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vetted {
    /// The pattern for fancy-regex.
    pub pattern: String,
    /// Whether it needs the backtracking engine.
    pub is_backtracking: bool,
    /// Whether one attempt takes only short steps, so that the engine's limit on their number
    /// bounds its time. Always true for patterns that do not backtrack.
    pub is_simple: bool,
}

pub(super) fn vet(pattern: &str) -> Result<Vetted, String> {
    if pattern.len() > PATTERN_BYTES {
        return Err(format!("longer than {PATTERN_BYTES} bytes"));
    }
    let mut scan = Scan {
        rest: pattern,
        out: String::with_capacity(pattern.len()),
        is_backtracking: false,
        is_simple: true,
        depth: 0,
        branch: Branch::default(),
    };
    scan.alternatives(true)?;
    if !scan.rest.is_empty() {
        return Err("a closing parenthesis has no opening one".to_owned());
    }
    Ok(Vetted {
        pattern: scan.out,
        is_backtracking: scan.is_backtracking,
        is_simple: scan.is_simple,
    })
}

struct Scan<'a> {
    rest: &'a str,
    out: String,
    is_backtracking: bool,
    is_simple: bool,
    depth: usize,
    branch: Branch,
}

/// The part of the current branch of the outermost alternation that has been read.
#[derive(Default)]
struct Branch {
    /// An item makes the engine backtrack.
    is_hard: bool,
    /// A group contains an item of variable length, or is repeated.
    has_nesting: bool,
    /// Number of items of variable length.
    variable: usize,
    /// There was an unbounded item from which the engine can backtrack.
    has_loop: bool,
    /// There was a look-around; in a simple branch nothing may follow it.
    is_closed: bool,
    /// The order of the items makes a long step possible.
    is_crooked: bool,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Copies a character to the output.
    fn take(&mut self) -> Option<char> {
        let c = self.skip()?;
        self.out.push(c);
        Some(c)
    }

    fn skip(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_str(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                self.out.push_str(prefix);
                true
            }
            None => false,
        }
    }

    /// Reads up to the end, or to the closing parenthesis of the group.
    fn alternatives(&mut self, is_top: bool) -> Result<(), String> {
        if self.depth > DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
        while let Some(c) = self.peek() {
            match c {
                ')' => break,
                '|' => {
                    self.take();
                    if is_top {
                        self.end_branch();
                    }
                }
                _ => self.item(is_top)?,
            }
        }
        if is_top {
            self.end_branch();
        }
        Ok(())
    }

    fn end_branch(&mut self) {
        let branch = std::mem::take(&mut self.branch);
        if branch.is_hard && (branch.has_nesting || branch.is_crooked || branch.variable > VARIABLE_ITEMS) {
            self.is_simple = false;
        }
    }

    fn item(&mut self, is_top: bool) -> Result<(), String> {
        if is_top && self.branch.is_closed {
            self.branch.is_crooked = true;
        }
        let is_group = match self.peek() {
            Some('(') => {
                let is_start = self.out.is_empty();
                if self.group(is_start)? {
                    // A look-around or a flag, which has no quantifier.
                    return Ok(());
                }
                true
            }
            Some('[') => {
                self.class()?;
                false
            }
            Some('\\') => {
                self.escape(false)?;
                false
            }
            Some(c @ ('^' | '$')) => {
                return Err(format!(
                    "{c} means the end of a line in one engine and of the text in another; use \\A or \\z"
                ));
            }
            Some(c @ ('*' | '+' | '?')) => return Err(format!("{c} has nothing to repeat")),
            Some(_) => {
                self.take();
                false
            }
            None => return Ok(()),
        };
        self.quantifier(is_top, is_group)
    }

    /// Reads a group from its opening parenthesis; true if no quantifier may follow.
    fn group(&mut self, is_start: bool) -> Result<bool, String> {
        const PLAIN: [&str; 4] = ["(?:", "(?i:", "(?-i:", "(?>"];
        const LOOK: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];
        if is_start && self.take_str("(?i)") {
            return Ok(true);
        }
        if LOOK.iter().any(|look| self.take_str(look)) {
            let from = self.out.len();
            let is_ahead = self.out.ends_with("(?=") || self.out.ends_with("(?!");
            self.is_backtracking = true;
            self.body()?;
            let body = &self.out[from..self.out.len() - 1];
            let is_atom = is_one_atom(body);
            self.branch.is_hard = true;
            // In a group, a loop may try it in each round.
            self.branch.is_crooked |= !is_atom || !is_ahead || self.depth > 0;
            self.branch.is_closed = true;
            if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
                return Err("a look-around must not be repeated".to_owned());
            }
            return Ok(true);
        }
        if !PLAIN.iter().any(|plain| self.take_str(plain)) {
            if self.rest.starts_with("(?") {
                return Err("only the groups (?:, (?i:, (?=, (?!, (?<=, (?<! and (?> are accepted".to_owned());
            }
            self.take();
        }
        if self.out.ends_with("(?>") {
            self.is_backtracking = true;
            self.branch.is_hard = true;
            self.branch.has_nesting = true;
        }
        self.body()?;
        Ok(false)
    }

    /// Reads the rest of a group with its closing parenthesis.
    fn body(&mut self) -> Result<(), String> {
        self.depth += 1;
        self.alternatives(false)?;
        self.depth -= 1;
        match self.take() {
            Some(_) => Ok(()),
            None => Err("a group is not closed".to_owned()),
        }
    }

    fn quantifier(&mut self, is_top: bool, is_group: bool) -> Result<(), String> {
        let (is_variable, is_endless, is_counted) = match self.peek() {
            Some('*' | '+') => {
                self.take();
                (true, true, false)
            }
            Some('?') => {
                self.take();
                (true, false, false)
            }
            Some('{') => {
                let (low, high) = self.counts()?;
                (high != Some(low), high.is_none(), true)
            }
            _ => (false, false, false),
        };
        let is_quantified = is_variable || is_counted;
        let mut is_possessive = false;
        if is_quantified {
            match self.peek() {
                Some('?' | '+') if is_counted => {
                    return Err("{n,m} followed by ? or + means different things in different engines".to_owned());
                }
                Some('?') => {
                    self.take();
                }
                Some('+') => {
                    self.take();
                    is_possessive = true;
                }
                _ => {}
            }
            if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
                return Err("a repetition must not be repeated; put the inner one into (?: )".to_owned());
            }
        }
        let branch = &mut self.branch;
        if is_possessive {
            self.is_backtracking = true;
            branch.is_hard = true;
            // Each backtracking step into the loop runs this one again.
            branch.is_crooked |= branch.has_loop || is_group || !is_top;
        } else if is_variable {
            branch.variable += 1;
            branch.has_loop |= is_endless;
            branch.has_nesting |= !is_top || is_group && is_endless;
        }
        Ok(())
    }

    /// Reads `{n}`, `{n,}` or `{n,m}`.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        let odd = || "a brace that is not {n}, {n,} or {n,m} must be written as \\{".to_owned();
        let end = self.rest.find('}').ok_or_else(odd)?;
        let inner = &self.rest[1..end];
        let number = |text: &str| -> Result<u32, String> {
            let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let value = if is_digits { text.parse().ok() } else { None };
            match value {
                Some(value) if value <= REPEAT => Ok(value),
                Some(_) | None if is_digits => Err(format!("a repetition counts more than {REPEAT} times")),
                Some(_) | None => Err(odd()),
            }
        };
        let counts = match inner.split_once(',') {
            None => {
                let count = number(inner)?;
                (count, Some(count))
            }
            Some((low, "")) => (number(low)?, None),
            Some((low, high)) => (number(low)?, Some(number(high)?)),
        };
        self.out.push_str(&self.rest[..=end]);
        self.rest = &self.rest[end + 1..];
        Ok(counts)
    }

    fn class(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
        self.take();
        self.take_str("^");
        if self.peek() == Some(']') {
            return Err("a class begins with ]; write it as \\]".to_owned());
        }
        loop {
            match self.peek() {
                None => return Err("a class is not closed".to_owned()),
                Some(']') => {
                    self.take();
                    break;
                }
                Some('[') if self.rest.starts_with("[:") => {
                    return Err(
                        "POSIX brackets such as [:punct:] mean different characters in different engines".to_owned(),
                    );
                }
                Some('[') => self.class()?,
                Some('\\') => self.escape(true)?,
                Some(c @ ('-' | '~')) if self.rest[1..].starts_with(c) => {
                    return Err(format!("{c}{c} in a class means different things in different engines"));
                }
                Some(_) => {
                    self.take();
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn escape(&mut self, is_in_class: bool) -> Result<(), String> {
        self.skip();
        let Some(c) = self.peek() else {
            return Err("the pattern ends in a backslash".to_owned());
        };
        match c {
            'w' | 'W' => {
                self.skip();
                let negation = if c == 'W' { "^" } else { "" };
                self.out.push_str(&format!("[{negation}{WORD}]"));
            }
            'd' | 'D' | 's' | 'S' | 'n' | 'r' | 't' | 'f' => {
                self.out.push('\\');
                self.take();
            }
            'A' | 'z' | 'b' | 'B' if !is_in_class => {
                self.out.push('\\');
                self.take();
            }
            'p' | 'P' => self.property()?,
            'x' | 'u' => self.code_point(c)?,
            _ if c.is_ascii_punctuation() || c == ' ' => {
                self.skip();
                push_literal(&mut self.out, c);
            }
            _ => return Err(format!("\\{c} is not accepted")),
        }
        Ok(())
    }

    /// Reads `p{..}` after the backslash.
    fn property(&mut self) -> Result<(), String> {
        // Names that mean different characters in the two engines.
        const POSIX: [&str; 14] = [
            "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
            "xdigit", "word", "ascii",
        ];
        let letter = self.skip().unwrap_or('p');
        let name = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map(|(name, _)| name)
            .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_'))
            .ok_or_else(|| format!("\\{letter} is not followed by the name of a property, as in \\p{{L}}"))?;
        if POSIX.iter().any(|posix| name.eq_ignore_ascii_case(posix)) {
            return Err(format!(
                "\\p{{{name}}} means different characters in different engines; name a general category, as in \\p{{P}}"
            ));
        }
        self.out.push('\\');
        self.out.push(letter);
        let length = name.len() + 2;
        self.out.push_str(&self.rest[..length]);
        self.rest = &self.rest[length..];
        Ok(())
    }

    /// Reads `x41`, `x{41}` or `u0041` after the backslash.
    fn code_point(&mut self, kind: char) -> Result<(), String> {
        self.skip();
        let odd = || format!("\\{kind} is not followed by the number of a character");
        let (digits, length) = match self.rest.strip_prefix('{') {
            Some(rest) if kind == 'x' => {
                let (digits, _) = rest.split_once('}').ok_or_else(odd)?;
                (digits, digits.len() + 2)
            }
            _ => {
                let length = if kind == 'x' { 2 } else { 4 };
                (self.rest.get(..length).ok_or_else(odd)?, length)
            }
        };
        let is_hex = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = if is_hex {
            u32::from_str_radix(digits, 16).ok()
        } else {
            None
        };
        let number = number.ok_or_else(odd)?;
        if kind == 'x' && !self.rest.starts_with('{') && number > 0x7f {
            // Oniguruma takes it for a byte of UTF-8, fancy-regex for a character.
            return Err(format!(
                "\\x{digits} is a byte in one engine and a character in another; use \\x{{{digits}}}"
            ));
        }
        if char::from_u32(number).is_none() {
            return Err(odd());
        }
        self.out.push_str(&format!("\\x{{{number:x}}}"));
        self.rest = &self.rest[length..];
        Ok(())
    }
}

/// Writes an escaped punctuation mark so that both engines read it as itself. `\<` and `\>` are
/// word boundaries in fancy-regex.
fn push_literal(out: &mut String, c: char) {
    if matches!(c, '<' | '>' | ' ') {
        out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
    } else {
        out.push('\\');
        out.push(c);
    }
}

/// Whether the body of a look-around is one character or one class.
fn is_one_atom(body: &str) -> bool {
    let mut chars = body.chars();
    match chars.next() {
        Some('[') => {
            // The body is one class if only its last character closes the first bracket.
            let (mut depth, mut is_escaped) = (0, false);
            for (at, c) in body.char_indices() {
                match c {
                    _ if is_escaped => is_escaped = false,
                    '\\' => is_escaped = true,
                    '[' => depth += 1,
                    ']' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1 == body.len();
                        }
                    }
                    _ => {}
                }
            }
            false
        }
        Some('\\') => match chars.next() {
            Some('p' | 'P' | 'x') => body.find('}').is_some_and(|at| at + 1 == body.len()),
            Some(_) => chars.next().is_none(),
            None => false,
        },
        Some('(' | '.' | '*' | '+' | '?' | '{' | '|') | None => false,
        Some(_) => chars.next().is_none(),
    }
}

#[cfg(test)]
mod tests;
