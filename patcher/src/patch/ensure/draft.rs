//! A config while it is changed: its documents side by side, so that an edit reads and writes only its own.

use zeroize::Zeroizing;

use super::wish::{Edit, Wish};
use super::{fulfil, wanted_of_nothing};
use crate::machine::document::identify;
use crate::machine::{Dialect, Document, DocumentId, MachineConfig};
use crate::patch::emit::{Layout, block};
use crate::patch::error::{Class, PatchError};
use crate::patch::json6902::literal;
use crate::patch::line::TalosLine;
use crate::patch::splice::{only, splice_tree};
use crate::patch::tree::Tree;

/// A config as the texts of its documents, which together are its text.
pub(super) struct Draft {
    line: TalosLine,
    pieces: Vec<Piece>,
}

/// One document, its separator included.
struct Piece {
    /// None for a text without any document, such as one of comments only.
    id: Option<DocumentId>,
    text: Zeroizing<String>,
    /// What it says; read when it is needed for the first time.
    read: Option<Read>,
}

struct Read {
    /// Offsets count from the start of the piece.
    tree: Document,
    says: Tree,
}

impl Draft {
    pub(super) fn read(text: &str, line: TalosLine) -> Result<Self, PatchError> {
        let config = MachineConfig::parse(text.as_bytes(), line.dialect())?;
        let piece = |id, text: &str| Piece { id, text: Zeroizing::new(text.to_owned()), read: None };
        let parts = config.parts().iter();
        let mut pieces: Vec<Piece> =
            parts.map(|part| piece(Some(part.id.clone()), &text[part.span.clone()])).collect();
        if pieces.is_empty() {
            pieces.push(piece(None, text));
        }
        Ok(Self { line, pieces })
    }

    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut text =
            Zeroizing::new(String::with_capacity(self.pieces.iter().map(|it| it.text.len()).sum()));
        self.pieces.iter().for_each(|piece| text.push_str(&piece.text));
        text
    }

    /// Fulfils the wish of an edit; whether that took a change.
    pub(super) fn fulfil(&mut self, edit: &Edit) -> Result<bool, PatchError> {
        let Some(index) = self.pieces.iter().position(|piece| piece.id.as_ref() == Some(&edit.document))
        else {
            return match &edit.wish {
                Wish::Absent(_) | Wish::DocumentAbsent => Ok(false),
                wish => self.append(&edit.document, wish).map(|()| true),
            };
        };
        if edit.wish == Wish::DocumentAbsent {
            self.pieces.remove(index);
            return Ok(true);
        }
        let before_it =
            self.pieces[..index].iter().map(|piece| piece.text.matches('\n').count()).sum::<usize>();
        let dialect = self.line.dialect();
        let piece = &mut self.pieces[index];
        let cannot = |line: usize| {
            let message = "the document cannot be edited without writing it anew";
            PatchError::new(Class::Limit, message).on_line(before_it + line)
        };
        let read = match piece.read.take() {
            Some(read) => read,
            None => read(&piece.text, dialect).ok_or_else(|| cannot(1))?,
        };
        let Read { tree, says } = piece.read.insert(read);
        let mut wanted = says.clone();
        fulfil(&mut wanted, &edit.document, &edit.wish)?;
        if wanted == *says {
            return Ok(false);
        }
        let is_right = |tree: &Document| literal(tree, tree.root()) == wanted;
        let spliced = splice_tree(&piece.text, tree, says, &wanted, dialect, is_right);
        let (text, tree) = spliced.ok_or_else(|| cannot(tree.node(tree.root()).line))?;
        piece.id = Some(identify(&tree));
        piece.text = Zeroizing::new(text);
        piece.read = Some(Read { tree, says: wanted });
        Ok(true)
    }

    /// Writes a document that is not there yet behind the others.
    fn append(&mut self, id: &DocumentId, wish: &Wish) -> Result<(), PatchError> {
        let mut written = block(&wanted_of_nothing(id, wish)?, Layout::TALOS, 0);
        let text = self.text();
        if text.trim().is_empty() {
            self.pieces.clear();
        } else {
            let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
            if let Some(last) = self.pieces.last_mut().filter(|_| !text.ends_with('\n')) {
                last.text.push_str(end);
                last.read = None;
            }
            written = format!("---{end}{}", written.replace('\n', end));
        }
        let cannot = || PatchError::new(Class::Limit, "the new document cannot be written");
        let read = read(&written, self.line.dialect()).ok_or_else(cannot)?;
        let id = Some(identify(&read.tree));
        self.pieces.push(Piece { id, text: Zeroizing::new(written), read: Some(read) });
        Ok(())
    }

    /// Reads the whole text again: its documents must be those that were put together.
    pub(super) fn prove(&self, text: &str) -> Result<(), PatchError> {
        let config = MachineConfig::parse(text.as_bytes(), self.line.dialect())?;
        let found = config.parts().iter().map(|part| &part.id);
        if found.eq(self.pieces.iter().filter_map(|piece| piece.id.as_ref())) {
            return Ok(());
        }
        Err(PatchError::new(Class::Limit, "the edited documents do not stand side by side"))
    }
}

/// The one document of a piece.
fn read(text: &str, dialect: Dialect) -> Option<Read> {
    let tree = only(text, dialect)?;
    let says = literal(&tree, tree.root());
    Some(Read { tree, says })
}
