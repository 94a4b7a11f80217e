//! Reads the source tree, and Rust well enough to find words, paths and functions:
//! comments and the insides of literals are no code.

use std::fs;
use std::path::Path;

/// One file of the tree.
pub(crate) struct File {
    /// From the root of the tree, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A word or a sign, and the line it stands in, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The tokens of a file.
pub(crate) struct Code {
    pub(crate) tokens: Vec<Token>,
}

/// A path as it was written, groups taken apart.
pub(crate) struct Named {
    pub(crate) names: Vec<String>,
    pub(crate) line: usize,
    /// In how many inline modules it stands.
    pub(crate) depth: usize,
}

/// A function with its lines of code between the braces.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Complaints about words of the code that must not be there.
    pub(crate) fn words(&self, code: &Code, banned: &[&str]) -> Vec<String> {
        let found = code.tokens.iter().filter(|token| banned.contains(&token.text.as_str()));
        found.map(|token| format!("{}:{}: {}", self.path, token.line, token.text)).collect()
    }
}

/// The Rust files of these folders; one that is not there has none.
pub(crate) fn rust(folders: &[&str]) -> Vec<File> {
    files(folders, "rs")
}

/// The files of these folders with this ending, in the order of their names.
pub(crate) fn files(folders: &[&str], ending: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        if root.join(folder).is_dir() {
            walk(root, &root.join(folder), ending, &mut found);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(root: &Path, folder: &Path, ending: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the tree can be read") {
        let path = entry.expect("a folder of the tree can be read").path();
        if path.is_dir() {
            walk(root, &path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            let relative = path.strip_prefix(root).expect("it is in the tree");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            found.push(File { path: parts.join("/"), text });
        }
    }
}

/// The words of a name, in lower case: `LeaseNotes` and `lease_notes` alike.
pub(crate) fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter.is_uppercase() || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter.is_alphanumeric()) {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

impl Code {
    pub(crate) fn of(text: &str) -> Self {
        let bare: Vec<char> = without_remarks(text).chars().collect();
        let (mut tokens, mut line, mut at) = (Vec::new(), 1, 0);
        while let Some(letter) = bare.get(at) {
            let word = |letter: &&char| letter.is_alphanumeric() || **letter == '_';
            let rest = bare.get(at..).unwrap_or_default();
            let text: String = match letter {
                letter if word(&letter) => rest.iter().take_while(word).collect(),
                ':' if rest.get(1) == Some(&':') => "::".to_owned(),
                letter => letter.to_string(),
            };
            at += text.chars().count();
            if text == "\n" {
                line += 1;
            } else if !text.trim().is_empty() {
                tokens.push(Token { text, line });
            }
        }
        Self { tokens }
    }

    /// All paths that begin with `root`.
    pub(crate) fn paths(&self, root: &str) -> Vec<Named> {
        let (mut found, mut open, mut modules) = (Vec::new(), 0_usize, Vec::new());
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => {
                    open += 1;
                    if at >= 2 && self.text(at - 2) == "mod" {
                        modules.push(open);
                    }
                }
                "}" => {
                    if modules.last() == Some(&open) {
                        modules.pop();
                    }
                    open = open.saturating_sub(1);
                }
                text if text == root && (at == 0 || self.text(at - 1) != "::") => {
                    let mut paths = Vec::new();
                    self.expand(at, &[], &mut paths);
                    let (line, depth) = (token.line, modules.len());
                    found.extend(paths.into_iter().map(|names| Named { names, line, depth }));
                }
                _ => {}
            }
        }
        found
    }

    /// The names declared after these keywords.
    pub(crate) fn named(&self, keywords: &[&str]) -> Vec<(usize, String)> {
        let pairs = self.tokens.iter().zip(self.tokens.iter().skip(1));
        let named = pairs.filter(|(keyword, name)| {
            let is_name = name.text.starts_with(|letter: char| letter.is_alphabetic());
            is_name && keywords.contains(&keyword.text.as_str())
        });
        named.map(|(_, name)| (name.line, name.text.clone())).collect()
    }

    /// The lines of all attributes of this name.
    pub(crate) fn attributes(&self, name: &str) -> Vec<usize> {
        let at = (2..self.tokens.len()).filter(|at| {
            self.text(*at) == name && self.text(at - 1) == "[" && self.text(at - 2) == "#"
        });
        at.filter_map(|at| self.tokens.get(at)).map(|token| token.line).collect()
    }

    /// All functions that have a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let starts = (0..self.tokens.len()).filter(|at| self.text(*at) == "fn");
        starts.filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let name = self.tokens.get(at + 1).filter(|name| name.text != "(")?;
        let mut nested = 0_usize;
        let body = (at..self.tokens.len()).find(|at| {
            match self.text(*at) {
                "(" | "[" => nested += 1,
                ")" | "]" => nested = nested.saturating_sub(1),
                _ => {}
            }
            nested == 0 && matches!(self.text(*at), "{" | ";")
        })?;
        if self.text(body) == ";" {
            return None;
        }
        let mut open = 0_usize;
        let end = (body..self.tokens.len()).find(|at| {
            match self.text(*at) {
                "{" => open += 1,
                "}" => open -= 1,
                _ => {}
            }
            open == 0
        })?;
        let mut lines: Vec<_> = self.tokens.get(body + 1..end)?.iter().map(|t| t.line).collect();
        lines.dedup();
        let outer = [self.tokens.get(body)?.line, self.tokens.get(end)?.line];
        lines.retain(|line| !outer.contains(line));
        Some(Function { name: name.text.clone(), line: name.line, lines: lines.len() })
    }

    /// Follows a path from one of its names on, into its groups.
    fn expand(&self, at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
        let (mut at, mut names) = (at, before.to_vec());
        loop {
            if self.text(at) == "{" {
                at += 1;
                while at < self.tokens.len() && self.text(at) != "}" {
                    at = self.expand(at, &names, found).max(at + 1);
                    while matches!(self.text(at), "," | "as") {
                        at += if self.text(at) == "as" { 2 } else { 1 };
                    }
                }
                return at + 1;
            }
            names.push(self.text(at).to_owned());
            at += 1;
            let goes_on = self.text(at) == "::"
                && self.text(at + 1).starts_with(|c: char| c.is_alphabetic() || "_{*".contains(c));
            if !goes_on {
                found.push(names);
                return at;
            }
            at += 1;
        }
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }
}

/// The text with comments and the insides of literals taken out; lines stay.
fn without_remarks(text: &str) -> String {
    let (mut bare, mut rest) = (String::new(), text);
    while let Some(letter) = rest.chars().next() {
        let skipped = remark(rest).or_else(|| literal(rest, bare.chars().next_back()));
        let length = skipped.unwrap_or(letter.len_utf8());
        let (taken, after) = rest.split_at(length);
        if skipped.is_some() {
            bare.push(' ');
            bare.extend(taken.chars().filter(|letter| *letter == '\n'));
        } else {
            bare.push_str(taken);
        }
        rest = after;
    }
    bare
}

/// How long the comment is that begins here, if one does.
fn remark(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let inside = text.strip_prefix("/*")?;
    Some(inside.find("*/").map_or(text.len(), |end| end + 4))
}

/// How long the text or character literal is that begins here, if one does.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let in_a_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if let Some(raw) = text.strip_prefix('r').filter(|_| !in_a_word || before == Some('b')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if let Some(inside) = raw.get(hashes..).and_then(|rest| rest.strip_prefix('"')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
            return Some(1 + hashes + 1 + length);
        }
    }
    if let Some(inside) = text.strip_prefix('"') {
        return Some(1 + end_of(inside, '"'));
    }
    let inside = text.strip_prefix('\'')?;
    let mut letters = inside.chars();
    match (letters.next()?, letters.next()?) {
        ('\\', _) => Some(1 + end_of(inside, '\'')),
        (letter, '\'') => Some(2 + letter.len_utf8()),
        // A lifetime.
        _ => None,
    }
}

/// Where a literal ends that has escapes, its closing sign included.
fn end_of(inside: &str, sign: char) -> usize {
    let mut escaped = false;
    for (at, letter) in inside.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == sign => return at + 1,
            _ => {}
        }
    }
    inside.len()
}
