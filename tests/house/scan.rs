//! Collects the paths in a file: in `use` trees, expressions, types, patterns, attributes and macros.

use crate::source::{House, Mention, Module, Written};
use crate::tokens;
use proc_macro2::TokenStream;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree};

/// The place of a file's child modules, relative to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// Next to the file: for `mod.rs`, a root, or a file named by `#[path]`.
    Beside,
    /// In a directory with the file's name.
    Below,
}

/// A module with its own file.
#[derive(Debug)]
pub struct Declared {
    pub path: Vec<String>,
    /// The possible places of the file. The first that exists counts.
    pub files: Vec<(PathBuf, Children)>,
    /// Whether the declaration, or a module around it, is for tests only.
    pub test: bool,
}

impl Declared {
    pub fn root(file: &str, path: Vec<String>) -> Self {
        Self { path, files: vec![(PathBuf::from(file), Children::Beside)], test: false }
    }
}

/// Adds the modules of a parsed file to the house. Returns the modules that it declares in other files.
pub fn file(
    house: &mut House,
    file: &Path,
    children: Children,
    declared: &Declared,
    parsed: &syn::File,
) -> Vec<Declared> {
    let directory = file.parent().unwrap().to_owned();
    let below = match children {
        Children::Beside => directory.clone(),
        Children::Below => file.with_extension(""),
    };
    let mut scan = Scan {
        house,
        file,
        at: declared.path.clone(),
        directory,
        below,
        test: declared.test || parsed.attrs.iter().any(for_tests),
        declared: Vec::new(),
    };
    scan.enter();
    scan.visit_file(parsed);
    scan.declared
}

struct Scan<'a> {
    house: &'a mut House,
    file: &'a Path,
    /// The current module.
    at: Vec<String>,
    /// The directory that a `#[path]` is relative to.
    directory: PathBuf,
    /// The directory with the files of child modules.
    below: PathBuf,
    test: bool,
    declared: Vec<Declared>,
}

impl Scan<'_> {
    fn module(&mut self) -> &mut Module {
        self.house.modules.entry(self.at.clone()).or_default()
    }

    fn enter(&mut self) {
        let file = self.file.to_owned();
        self.module().file = file;
    }

    fn mention(&mut self, written: Written, line: usize) {
        let test = self.test;
        self.module().mentions.push(Mention { written, line, test });
    }

    /// Records that the code is asynchronous, under the name `async`, which no crate can have.
    fn waits(&mut self, line: usize) {
        self.mention(Written { segments: vec!["async".to_owned()], outer: true, glob: false }, line);
    }

    fn tokens(&mut self, tokens: TokenStream, strings: bool) {
        for (written, line) in tokens::paths(tokens, strings) {
            if written.segments == ["async"] {
                self.waits(line);
            } else {
                self.mention(written, line);
            }
        }
    }

    fn with_attributes(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let before = self.test;
        self.test |= attributes.iter().any(for_tests);
        visit(self);
        self.test = before;
    }

    fn use_tree(&mut self, tree: &UseTree, mut prefix: Vec<String>, outer: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix, outer);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix.clone(), outer);
                }
            }
            UseTree::Name(name) => self.use_leaf(prefix, &name.ident, None, outer),
            UseTree::Rename(rename) => self.use_leaf(prefix, &rename.ident, Some(&rename.rename), outer),
            UseTree::Glob(glob) => {
                let written = Written { segments: prefix, outer, glob: true };
                self.module().globs.push(Written { glob: false, ..written.clone() });
                self.mention(written, glob.star_token.spans[0].start().line);
            }
        }
    }

    fn use_leaf(
        &mut self,
        mut prefix: Vec<String>,
        name: &syn::Ident,
        rename: Option<&syn::Ident>,
        outer: bool,
    ) {
        if name != "self" || prefix.is_empty() {
            prefix.push(name.to_string());
        }
        let bound = rename.map(ToString::to_string).or_else(|| prefix.last().cloned());
        let written = Written { segments: prefix, outer, glob: false };
        self.module().bindings.extend(bound.map(|bound| (bound, written.clone())));
        self.mention(written, name.span().start().line);
    }
}

impl<'ast> Visit<'ast> for Scan<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = name_and_attributes(item);
        if let (Some(name), false) = (&name, matches!(item, Item::Mod(_))) {
            self.module().items.insert(name.clone());
        }
        self.with_attributes(attributes, |scan| visit::visit_item(scan, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.with_attributes(&item.attrs, |scan| visit::visit_impl_item_fn(scan, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        let name = item.ident.to_string();
        let path: Vec<String> = self.at.iter().cloned().chain([name.clone()]).collect();
        let elsewhere = item.attrs.iter().find_map(path_attribute);
        let Some((_, items)) = &item.content else {
            let files = match elsewhere {
                Some(elsewhere) => vec![(self.directory.join(elsewhere), Children::Beside)],
                None => vec![
                    (self.below.join(format!("{name}.rs")), Children::Below),
                    (self.below.join(&name).join("mod.rs"), Children::Beside),
                ],
            };
            self.declared.push(Declared { path, files, test: self.test });
            return;
        };
        let below = self.below.join(elsewhere.unwrap_or(name));
        let at = std::mem::replace(&mut self.at, path);
        let directory = std::mem::replace(&mut self.directory, below.clone());
        let above = std::mem::replace(&mut self.below, below);
        self.enter();
        items.iter().for_each(|item| self.visit_item(item));
        (self.at, self.directory, self.below) = (at, directory, above);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        self.use_tree(&item.tree, Vec::new(), item.leading_colon.is_some());
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name).to_string();
        if item.ident == "self" {
            self.house.own_names.insert(name);
            return;
        }
        let written = Written { segments: vec![item.ident.to_string()], outer: true, glob: false };
        self.module().bindings.push((name, written.clone()));
        self.mention(written, item.ident.span().start().line);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        // An exported macro is an item of the root, wherever it is defined.
        if let Some(name) = &item.ident
            && item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"))
        {
            let path = ["crate".to_owned()].into_iter().chain(self.at.clone()).chain([name.to_string()]);
            let written = Written::plain(path.collect());
            self.house.modules.entry(Vec::new()).or_default().bindings.push((name.to_string(), written));
        }
        visit::visit_item_macro(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let outer = path.leading_colon.is_some();
        // A single name is local, or imported by a `use` declaration.
        if outer || path.segments.len() > 1 {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let line = path.segments[0].ident.span().start().line;
            self.mention(Written { segments, outer, glob: false }, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // A link in a doc comment imports nothing.
        if attribute.path().is_ident("doc") {
            return;
        }
        match &attribute.meta {
            Meta::Path(path) => self.visit_path(path),
            Meta::List(list) => {
                self.visit_path(&list.path);
                self.tokens(list.tokens.clone(), true);
            }
            Meta::NameValue(_) => {}
        }
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.asyncness {
            self.waits(token.span.start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.waits(block.async_token.span.start().line);
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        if let Some(token) = &closure.asyncness {
            self.waits(token.span.start().line);
        }
        visit::visit_expr_closure(self, closure);
    }
}

fn name_and_attributes(item: &Item) -> (Option<String>, &[Attribute]) {
    let (name, attributes) = match item {
        Item::Const(item) => (Some(&item.ident), &item.attrs),
        Item::Enum(item) => (Some(&item.ident), &item.attrs),
        Item::Fn(item) => (Some(&item.sig.ident), &item.attrs),
        Item::Macro(item) => (item.ident.as_ref(), &item.attrs),
        Item::Mod(item) => (Some(&item.ident), &item.attrs),
        Item::Static(item) => (Some(&item.ident), &item.attrs),
        Item::Struct(item) => (Some(&item.ident), &item.attrs),
        Item::Trait(item) => (Some(&item.ident), &item.attrs),
        Item::Type(item) => (Some(&item.ident), &item.attrs),
        Item::Union(item) => (Some(&item.ident), &item.attrs),
        Item::Use(item) => (None, &item.attrs),
        Item::Impl(item) => (None, &item.attrs),
        Item::ForeignMod(item) => (None, &item.attrs),
        _ => return (None, &[]),
    };
    (name.map(ToString::to_string), attributes)
}

/// Returns whether the attribute restricts its item to test builds.
fn for_tests(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("cfg") {
        return attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition));
    }
    attribute.path().is_ident("test")
}

fn needs_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else { return condition.path().is_ident("test") };
    let parts = list.parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated);
    let mut parts = parts.iter().flatten();
    if list.path.is_ident("all") {
        parts.any(needs_test)
    } else {
        list.path.is_ident("any") && parts.all(needs_test)
    }
}

/// Returns the file named by `#[path = "…"]`.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
    pair.path.is_ident("path").then(|| text.value())
}
