//! A page in Markdown, and the parts of it that the tests check.

use std::fs;

use super::root;

/// The pages outside `docs/`.
const OTHERS: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "container/contract.md",
    "scripts/README.md",
];

const FENCE: &str = "```";

/// Start and end of the line above a shell block that the tests do not run.
const NOT_RUN: (&str, &str) = ("<!-- not run:", "-->");

pub struct Page {
    /// The path in the checkout.
    pub name: String,
    pub text: String,
}

/// A fenced block of a page.
pub struct Block {
    /// The line of the opening fence, counted from 1.
    pub line: usize,
    /// The word after the fence, such as `sh`.
    pub language: String,
    /// The reason why the tests do not run it.
    pub not_run: Option<String>,
    pub text: String,
}

impl Page {
    pub fn all() -> Vec<Self> {
        let mut names: Vec<String> = fs::read_dir(root().join("docs"))
            .unwrap()
            .map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()))
            .filter(|name| name.ends_with(".md"))
            .chain(OTHERS.map(str::to_owned))
            .collect();
        names.sort();
        names.into_iter().map(Self::read).collect()
    }

    fn read(name: String) -> Self {
        let text = fs::read_to_string(root().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, text }
    }

    #[track_caller]
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        let mut before = "";
        for (index, line) in self.text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix(FENCE) {
                match open.take() {
                    Some(block) => blocks.push(block),
                    None => {
                        open = Some(Block {
                            line: index + 1,
                            language: language.to_owned(),
                            not_run: reason(before),
                            text: String::new(),
                        });
                    }
                }
            } else if let Some(block) = &mut open {
                block.text.push_str(line);
                block.text.push('\n');
            }
            before = line;
        }
        assert!(open.is_none(), "{}: the last fence is not closed", self.name);
        blocks
    }

    /// The lines outside fenced blocks, each with its number.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_open = false;
        let mut prose = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with(FENCE) {
                is_open = !is_open;
            } else if !is_open {
                prose.push((index + 1, line));
            }
        }
        prose
    }

    /// The anchors of the headings, as repository hosts make them.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.iter().filter_map(|(_, line)| {
            let heading = line.trim_start_matches('#');
            (heading.len() < line.len() && heading.starts_with(' ')).then(|| heading.trim())
        });
        headings.map(anchor).collect()
    }
}

/// The reason, if the line above a block gives one.
fn reason(line: &str) -> Option<String> {
    let (begin, end) = NOT_RUN;
    let reason = line.strip_prefix(begin)?.strip_suffix(end)?.trim();
    Some(reason.to_owned())
}

fn anchor(heading: &str) -> String {
    let letters = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then_some(letter),
    });
    letters.collect::<String>().to_lowercase()
}

#[test]
fn anchors_match_those_of_repository_hosts() {
    for (heading, expected) in [
        ("`longshore endpoint`", "longshore-endpoint"),
        ("The manifest: longshore.json", "the-manifest-longshorejson"),
        ("What boto3 repeats", "what-boto3-repeats"),
    ] {
        assert_eq!(anchor(heading), expected);
    }
}

#[test]
fn every_block_names_its_language_and_only_shell_blocks_are_left_out() {
    for page in Page::all() {
        let mut reasons = 0;
        for block in page.blocks() {
            let place = format!("{}:{}", page.name, block.line);
            assert!(!block.language.is_empty(), "{place}: name the language of this block");
            if let Some(reason) = &block.not_run {
                assert!(!reason.is_empty(), "{place}: say why the tests do not run this block");
                assert_eq!(block.language, "sh", "{place}: only blocks of `sh` run");
                reasons += 1;
            }
        }
        let prose = page.prose();
        let marks = prose.iter().filter(|(_, line)| line.starts_with(NOT_RUN.0)).count();
        assert_eq!(
            marks, reasons,
            "{}: a mark stands on the line above its block",
            page.name
        );
    }
}
