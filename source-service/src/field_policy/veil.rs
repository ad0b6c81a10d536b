//! The walk over what may hold hidden fields. Where nothing is hidden it writes what the [`Writer`] alone would.

use super::{
    Action, HashKey, HiddenCounts, MASK,
    path_tree::{Along, PathTree, ROOT, State, Step},
};
use crate::transcode::{Dialect, Element, ElementKind, MAX_DEPTH, MalformedBson, Reader, Writer};

/// The rules of one collection, for one event.
pub(crate) struct Veil<'p> {
    tree: &'p PathTree,
    definitions: &'p PathTree,
    key: Option<&'p HashKey>,
    hidden: HiddenCounts,
}

impl<'p> Veil<'p> {
    pub(super) fn new(tree: &'p PathTree, definitions: &'p PathTree, key: Option<&'p HashKey>) -> Self {
        Self { tree, definitions, key, hidden: HiddenCounts::default() }
    }

    pub(crate) fn hidden(&self) -> HiddenCounts {
        self.hidden
    }

    /// The member of a document's key that is hidden, or has a hidden part.
    pub(crate) fn hidden_in_key<'k>(&self, key: &'k [u8]) -> Result<Option<&'k [u8]>, MalformedBson> {
        let mut reader = Reader::of_document(key)?;
        while let Some(element) = reader.element()? {
            let within = matches!(element.kind, ElementKind::Document | ElementKind::Array);
            match self.tree.along(ROOT, element.name) {
                Along::Hidden { .. } => return Ok(Some(element.name)),
                Along::Into(_) if within => return Ok(Some(element.name)),
                Along::Into(_) | Along::Clear => {}
            }
        }
        Ok(None)
    }

    /// A document as it is stored: `fullDocument`, `fullDocumentBeforeChange`.
    pub(crate) fn document<D: Dialect>(
        &mut self,
        kind: ElementKind,
        value: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        if kind != ElementKind::Document {
            // Only a pipeline makes it something else: its parts have no paths.
            self.mask(writer);
            return Ok(());
        }
        self.members(self.tree, ROOT, value, MAX_DEPTH, writer)
    }

    /// What an event about the collection itself says of it.
    pub(crate) fn definition<D: Dialect>(
        &mut self,
        kind: ElementKind,
        value: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        self.below(self.definitions, ROOT, kind, value, MAX_DEPTH, writer)
    }

    /// `updateDescription`: the same fields, by their paths.
    pub(crate) fn update_description<D: Dialect>(
        &mut self,
        kind: ElementKind,
        value: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        if kind != ElementKind::Document {
            self.mask(writer);
            return Ok(());
        }
        let mut reader = Reader::of_document(value)?;
        let mut list = List::begin(b"{", writer);
        while let Some(Element { kind, name, value }) = reader.element()? {
            list.next_member(writer);
            writer.text(name);
            writer.colon();
            match (name, kind) {
                (b"updatedFields", ElementKind::Document) => self.updated_fields(value, writer)?,
                (b"removedFields", ElementKind::Array) => self.removed_fields(value, writer)?,
                (b"truncatedArrays", ElementKind::Array) => self.truncated_arrays(value, writer)?,
                (b"disambiguatedPaths", ElementKind::Document) => self.disambiguated_paths(value, writer)?,
                (_, ElementKind::Null) => writer.raw(b"null"),
                // What nobody knows here may hold anything.
                _ => self.mask(writer),
            }
        }
        writer.raw(b"}");
        Ok(())
    }

    /// Paths with the values that they were given. A path that leads into something hidden becomes the path of that, once for all that lead
    /// there: the names below may be as telling as values.
    pub(crate) fn updated_fields<D: Dialect>(
        &mut self,
        fields: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        // Of the description and of this object.
        let depth = MAX_DEPTH - 2;
        let mut reader = Reader::of_document(fields)?;
        let mut list = List::begin(b"{", writer);
        let mut number = 0;
        let mut parent_before: &[u8] = b"";
        while let Some(Element { kind, name, value }) = reader.element()? {
            number += 1;
            let along = self.tree.along(ROOT, name);
            let shown = match along {
                Along::Hidden { action: Action::Drop, .. } => {
                    self.hidden.count(Action::Drop);
                    continue;
                }
                Along::Hidden { at, .. } if at < name.len() => {
                    let parent = &name[..at];
                    // Neighbours have the same parent as a rule.
                    if parent == parent_before || stands_before(fields, number, parent)? {
                        self.hidden.count(Action::Mask);
                        continue;
                    }
                    parent_before = parent;
                    parent
                }
                _ => name,
            };
            list.next_member(writer);
            writer.text(shown);
            writer.colon();
            match along {
                Along::Hidden { .. } if shown.len() < name.len() => self.mask(writer),
                along => self.value(self.tree, along, kind, value, depth, writer)?,
            }
        }
        writer.raw(b"}");
        Ok(())
    }

    /// Paths alone. That a part of something hidden was removed is not said, because its name may be telling.
    pub(crate) fn removed_fields<D: Dialect>(
        &mut self,
        fields: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        let mut reader = Reader::of_document(fields)?;
        let mut list = List::begin(b"[", writer);
        while let Some(Element { kind, value, .. }) = reader.element()? {
            let path = path_of(kind, value)?;
            if path.is_some_and(|path| self.is_left_out(path)) {
                self.hidden.count(Action::Drop);
                continue;
            }
            list.next_item(writer);
            match path {
                Some(path) => writer.text(path),
                None => self.mask(writer),
            }
        }
        writer.raw(b"]");
        Ok(())
    }

    /// `{field, newSize}`. Nothing is said of an array that is hidden, or part of something that is.
    pub(crate) fn truncated_arrays<D: Dialect>(
        &mut self,
        arrays: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        let mut reader = Reader::of_document(arrays)?;
        let mut list = List::begin(b"[", writer);
        while let Some(Element { kind, value, .. }) = reader.element()? {
            let field = if kind == ElementKind::Document { field_of(value)? } else { None };
            let along = field.map(|field| self.tree.along(ROOT, field));
            if let Some(Along::Hidden { .. }) = along {
                self.hidden.count(Action::Drop);
                continue;
            }
            list.next_item(writer);
            match along {
                Some(_) => writer.value(kind, value)?,
                None => self.mask(writer),
            }
        }
        writer.raw(b"]");
        Ok(())
    }

    /// Paths with their names apart.
    fn disambiguated_paths<D: Dialect>(
        &mut self,
        paths: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        let mut reader = Reader::of_document(paths)?;
        let mut list = List::begin(b"{", writer);
        while let Some(Element { kind, name, value }) = reader.element()? {
            if self.is_left_out(name) {
                self.hidden.count(Action::Drop);
                continue;
            }
            list.next_member(writer);
            writer.text(name);
            writer.colon();
            writer.value(kind, value)?;
        }
        writer.raw(b"}");
        Ok(())
    }

    /// Whether nothing may be said of this array's length; counted.
    pub(crate) fn hides_array(&mut self, field: &[u8]) -> bool {
        let hidden = matches!(self.tree.along(ROOT, field), Along::Hidden { .. });
        if hidden {
            self.hidden.count(Action::Drop);
        }
        hidden
    }

    /// Whether the path leads into something hidden, or to something that is not there.
    fn is_left_out(&self, path: &[u8]) -> bool {
        match self.tree.along(ROOT, path) {
            Along::Hidden { action, at } => action == Action::Drop || at < path.len(),
            Along::Clear | Along::Into(_) => false,
        }
    }

    fn members<D: Dialect>(
        &mut self,
        tree: &PathTree,
        state: State,
        document: &[u8],
        depth: usize,
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        let mut reader = Reader::of_document(document)?;
        let mut list = List::begin(b"{", writer);
        while let Some(Element { kind, name, value }) = reader.element()? {
            let along = match tree.along(state, name) {
                Along::Hidden { action: Action::Drop, .. } => {
                    self.hidden.count(Action::Drop);
                    continue;
                }
                // A name with dots, of which the first ones alone are hidden: a part of that.
                Along::Hidden { at, .. } if at < name.len() => Along::Hidden { action: Action::Mask, at },
                along => along,
            };
            list.next_member(writer);
            writer.text(name);
            writer.colon();
            self.value(tree, along, kind, value, depth, writer)?;
        }
        writer.raw(b"}");
        Ok(())
    }

    fn items<D: Dialect>(
        &mut self,
        tree: &PathTree,
        state: State,
        array: &[u8],
        depth: usize,
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        let mut reader = Reader::of_document(array)?;
        let mut list = List::begin(b"[", writer);
        let mut index = 0;
        while let Some(Element { kind, value, .. }) = reader.element()? {
            let along = match tree.item(state, index) {
                Step::Clear => Along::Clear,
                Step::Into(next) => Along::Into(next),
                Step::Hidden(action) => Along::Hidden { action, at: 0 },
            };
            index += 1;
            if let Along::Hidden { action: Action::Drop, .. } = along {
                self.hidden.count(Action::Drop);
                continue;
            }
            list.next_item(writer);
            self.value(tree, along, kind, value, depth, writer)?;
        }
        writer.raw(b"]");
        Ok(())
    }

    /// What stands at a place that was reached; not for what is dropped, which has no place.
    fn value<D: Dialect>(
        &mut self,
        tree: &PathTree,
        along: Along,
        kind: ElementKind,
        value: &[u8],
        depth: usize,
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        match along {
            Along::Clear => writer.value_within(kind, value, depth),
            Along::Into(state) => self.below(tree, state, kind, value, depth, writer),
            Along::Hidden { action: Action::Hash, .. } => self.hash(kind, value, writer),
            Along::Hidden { .. } => {
                self.mask(writer);
                Ok(())
            }
        }
    }

    fn below<D: Dialect>(
        &mut self,
        tree: &PathTree,
        state: State,
        kind: ElementKind,
        value: &[u8],
        depth: usize,
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        match kind {
            ElementKind::Document => self.members(tree, state, value, depth, writer),
            ElementKind::Array => self.items(tree, state, value, depth, writer),
            _ => writer.value_within(kind, value, depth),
        }
    }

    fn mask<D: Dialect>(&mut self, writer: &mut Writer<'_, D>) {
        self.hidden.count(Action::Mask);
        writer.text(MASK.as_bytes());
    }

    fn hash<D: Dialect>(
        &mut self,
        kind: ElementKind,
        value: &[u8],
        writer: &mut Writer<'_, D>,
    ) -> Result<(), MalformedBson> {
        // Settings without a key were refused; never in clear all the same.
        let Some(key) = self.key else {
            self.mask(writer);
            return Ok(());
        };
        self.hidden.count(Action::Hash);
        writer.text(&key.of(kind, value)?);
        Ok(())
    }
}

/// The commas of an object or array.
struct List {
    first: bool,
}

impl List {
    fn begin<D: Dialect>(open: &[u8], writer: &mut Writer<'_, D>) -> Self {
        writer.raw(open);
        Self { first: true }
    }

    fn next_member<D: Dialect>(&mut self, writer: &mut Writer<'_, D>) {
        if !std::mem::take(&mut self.first) {
            writer.next_member();
        }
    }

    fn next_item<D: Dialect>(&mut self, writer: &mut Writer<'_, D>) {
        if !std::mem::take(&mut self.first) {
            writer.next_item();
        }
    }
}

/// Whether one of the paths before this number is `parent`, or lies in it.
fn stands_before(fields: &[u8], number: usize, parent: &[u8]) -> Result<bool, MalformedBson> {
    let mut reader = Reader::of_document(fields)?;
    for _ in 1..number {
        let Some(element) = reader.element()? else { break };
        let rest = element.name.strip_prefix(parent);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b".")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn path_of(kind: ElementKind, value: &[u8]) -> Result<Option<&[u8]>, MalformedBson> {
    if kind == ElementKind::String { Reader::new(value).string().map(Some) } else { Ok(None) }
}

/// `field` of a truncated array.
fn field_of(array: &[u8]) -> Result<Option<&[u8]>, MalformedBson> {
    let mut reader = Reader::of_document(array)?;
    while let Some(element) = reader.element()? {
        if element.name == b"field" {
            return path_of(element.kind, element.value);
        }
    }
    Ok(None)
}
