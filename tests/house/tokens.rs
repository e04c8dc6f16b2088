//! Finds paths in what `syn` does not parse: the tokens of macro calls, macro definitions and attributes.

use crate::source::Written;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Returns every path of two or more segments and every word `async`, with their lines. If `strings` is set,
/// also finds paths from `crate`, `super` or `self` in string literals, for attributes such as `#[serde(with
/// = "crate::…")]`.
///
/// `$crate` counts as `crate`. `super` in a macro definition is relative to the module of the definition.
pub fn paths(tokens: TokenStream, strings: bool) -> Vec<(Written, usize)> {
    let mut found = Vec::new();
    collect(&tokens.into_iter().collect::<Vec<_>>(), strings, &mut found);
    found
}

fn collect(tokens: &[TokenTree], strings: bool, found: &mut Vec<(Written, usize)>) {
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) => {
                let line = word.span().start().line;
                // `$name::…` depends on the call, which is checked separately.
                let variable = at > 0 && punct(&tokens[at - 1], '$') && word != "crate";
                let outer = at > 1 && colons(&tokens[at - 2..]) && !follows_path(tokens, at - 2);
                let before = found.len();
                at = path(tokens, at, Vec::new(), outer, line, found);
                if variable {
                    found.truncate(before);
                }
                continue;
            }
            TokenTree::Group(group) => {
                collect(&group.stream().into_iter().collect::<Vec<_>>(), strings, found);
            }
            TokenTree::Literal(literal) if strings => {
                if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                    && let Ok(path) = text.parse::<syn::Path>()
                    && ["crate", "super", "self"].iter().any(|first| path.segments[0].ident == first)
                {
                    let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                    found.push((Written::plain(segments), literal.span().start().line));
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Reads a path from `at` on, including the groups of a `use` tree. Returns the position of its end.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    mut segments: Vec<String>,
    outer: bool,
    line: usize,
    found: &mut Vec<(Written, usize)>,
) -> usize {
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => segments.push(word.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                found.push((Written { segments, outer, glob: true }, line));
                return at + 1;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                for part in inner.split(|token| punct(token, ',')).filter(|part| !part.is_empty()) {
                    let line = part[0].span().start().line;
                    path(part, 0, segments.clone(), outer, line, found);
                }
                return at + 1;
            }
            // In `name::<T>`, the arguments are tokens like others.
            _ => break,
        }
        at += 1;
        if !colons(tokens.get(at..).unwrap_or_default()) {
            break;
        }
        at += 2;
    }
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    if segments.len() > 1 || outer || segments == ["async"] {
        found.push((Written { segments, outer, glob: false }, line));
    }
    at
}

fn punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn colons(tokens: &[TokenTree]) -> bool {
    tokens.len() > 1 && punct(&tokens[0], ':') && punct(&tokens[1], ':')
}

/// Returns whether the colons at `at` continue a path: a name, `>` or a group precedes them.
fn follows_path(tokens: &[TokenTree], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|before| &tokens[before]) else { return false };
    // A complete path follows these keywords.
    let keyword = matches!(before, TokenTree::Ident(word) if ["use", "return", "in", "as", "dyn", "impl", "mut"]
        .iter().any(|keyword| word == keyword));
    !keyword && (matches!(before, TokenTree::Ident(_) | TokenTree::Group(_)) || punct(before, '>'))
}
