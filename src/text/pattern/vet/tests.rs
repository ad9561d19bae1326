use super::*;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

#[test]
fn published_patterns_are_accepted_and_simple() {
    let table = [
        (GPT_2, true),
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            true,
        ),
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            true,
        ),
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            true,
        ),
        (
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            true,
        ),
        (r" ?[^(\s|[.,!?…。，、।۔،])]+", false),
        (
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            false,
        ),
        (" {2,}", false),
        (r"[0-9][0-9][0-9]", false),
        (r"\s{2,}|[\n\r\t]", false),
        (r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"##, false),
        (r"\d{1,3}(?=(?:\d{3})*\b)", true),
    ];
    for (pattern, is_backtracking) in table {
        let vetted = vet(pattern).unwrap_or_else(|problem| panic!("{pattern}: {problem}"));
        assert_eq!(vetted.is_backtracking, is_backtracking, "{pattern}");
        assert_eq!(vetted.is_simple, !pattern.contains(r"\d{1,3}(?="), "{pattern}");
    }
}

#[test]
fn rejects_constructs_that_differ_between_the_engines() {
    let table = [
        (r"^a", "^ means the end of a line"),
        (r"\s+$", "$ means the end of a line"),
        (r"[[:punct:]]", "POSIX brackets"),
        (r"\p{Punct}", "general category"),
        (r"\pL", "name of a property"),
        (r"a{1,3}+", "{n,m} followed by"),
        (r"a{2}?", "{n,m} followed by"),
        (r"a{,3}", "a brace that is not"),
        (r"a{1,300}", "more than 256 times"),
        (r"a{99999999999}", "more than 256 times"),
        (r"a**", "a repetition must not be repeated"),
        (r"(a)\1", r"\1 is not accepted"),
        (r"(?m:a)", "only the groups"),
        (r"a(?i)b", "only the groups"),
        (r"(?<name>a)", "only the groups"),
        (r"\h", r"\h is not accepted"),
        (r"\G", r"\G is not accepted"),
        (r"[a--b]", "-- in a class"),
        (r"[]a]", "begins with ]"),
        (r"[a", "a class is not closed"),
        (r"(a", "a group is not closed"),
        (r"a)", "a closing parenthesis has no opening one"),
        (r"*a", "* has nothing to repeat"),
        (r"\", "ends in a backslash"),
        (r"[\b]", r"\b is not accepted"),
        (r"\xe9", "is a byte in one engine"),
        (r"(?!a)*", "a look-around must not be repeated"),
    ];
    for (pattern, problem) in table {
        let given = vet(pattern).expect_err(pattern);
        assert!(given.contains(problem), "{pattern}: {given}");
    }
    assert!(vet(&"(".repeat(5000)).unwrap_err().contains("longer than 4096 bytes"));
    assert!(vet(&"(".repeat(500)).unwrap_err().contains("nested deeper"));
    assert!(vet(&"[".repeat(500)).unwrap_err().contains("nested deeper"));
}

#[test]
fn patterns_with_long_steps_are_not_simple() {
    let table = [
        (r"\s+(?!\S)", true),
        (r"(?:a|b)*?(?!x)[^z]*z", false),
        (r"(a+)+(?!b)", false),
        (r"[ab]*[ab]++c", false),
        (r"a++b*c", true),
        (r"(?=[^z]*z)a", false),
        (r"(?<=a)b", false),
        (r"a?a?a?a?a?a?a?a?a?(?!b)", false),
        (r"(?>a+)b", false),
        (r"(?:a(?!b))*", false),
    ];
    for (pattern, is_simple) in table {
        assert_eq!(vet(pattern).unwrap().is_simple, is_simple, "{pattern}");
    }
}

#[test]
fn word_characters_match_the_reference() {
    assert_eq!(vet(r"\w+|[\W-]").unwrap().pattern, format!("[{WORD}]+|[[^{WORD}]-]"));
    assert_eq!(vet(r"\<\|a\|\>").unwrap().pattern, r"\x{3c}\|a\|\x{3e}");
    assert_eq!(vet(r"\u00e9\x41\x{1F600}").unwrap().pattern, r"\x{e9}\x{41}\x{1f600}");
}
