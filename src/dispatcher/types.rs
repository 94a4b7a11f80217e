//! The task types that a dispatcher knows: any that a worker ever registered.
//!
//! A snapshot is shared with whoever checks a submit; the scheduler alone adds to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::limits;
use crate::core::payload::Checker;
use crate::core::task_type::{TaskType, TypeId, TypeName};

/// Known types that are listed for somebody who named another: an answer is to fit into the
/// headers of a response.
const LISTED: usize = 50;

/// The known types, in the order in which they were learnt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    list: Vec<Known>,
    by_name: BTreeMap<TypeName, TypeId>,
}

/// One type, with what checks its payloads.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// What its workers registered.
    pub(crate) definition: TaskType,
    /// Compiled from it.
    pub(crate) checker: Arc<Checker>,
}

impl Types {
    /// The place of a type.
    pub(crate) fn find(&self, name: &str) -> Option<TypeId> {
        let name: TypeName = name.parse().ok()?;
        self.by_name.get(&name).copied()
    }

    /// A type by its place.
    pub(crate) fn get(&self, id: TypeId) -> Option<&Known> {
        self.list.get(usize::try_from(id.0).ok()?)
    }

    /// The name of a type.
    pub(crate) fn name(&self, id: TypeId) -> &str {
        self.get(id).map_or("", |known| known.definition.name.as_str())
    }

    /// All types by their names.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = (&TypeName, TypeId)> {
        self.by_name.iter().map(|(name, id)| (name, *id))
    }

    /// Whether this very definition is known.
    pub(crate) fn knows(&self, definition: &TaskType) -> bool {
        let known = self.by_name.get(&definition.name).and_then(|id| self.get(*id));
        known.is_some_and(|known| known.definition == *definition)
    }

    /// The place a definition has or would get; `None` when no more can be learnt.
    pub(crate) fn place_for(&self, name: &TypeName) -> Option<TypeId> {
        if let Some(id) = self.by_name.get(name) {
            return Some(*id);
        }
        (self.list.len() < limits::TYPES)
            .then(|| u32::try_from(self.list.len()).ok().map(TypeId))?
    }

    /// Adds a type or changes its definition. The places are without gaps.
    pub(crate) fn learn(&mut self, id: TypeId, known: Known) {
        self.by_name.insert(known.definition.name.clone(), id);
        match usize::try_from(id.0).ok().and_then(|at| self.list.get_mut(at)) {
            Some(place) => *place = known,
            None => self.list.push(known),
        }
    }

    /// What to say about a type that is not known, and may be no name at all.
    pub(crate) fn explain_unknown(&self, name: &str) -> String {
        if self.list.is_empty() {
            return format!(
                "unknown task type {}: no worker ever registered any type",
                shown(name)
            );
        }
        let mut known: Vec<&str> = self.by_name.keys().take(LISTED).map(TypeName::as_str).collect();
        let more = self.by_name.len() - known.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        known.extend(more.as_deref());
        let known = known.join(", ");
        let meant = self.meant(name).map(|meant| format!("did you mean \"{meant}\"? "));
        let meant = meant.unwrap_or_default();
        format!("unknown task type {}: {meant}known types: {known}", shown(name))
    }

    /// The known type that a name is close to.
    fn meant(&self, name: &str) -> Option<&TypeName> {
        // To compare names takes as much memory and time as their lengths' product.
        if name.len() > limits::TYPE_NAME_BYTES {
            return None;
        }
        let name = name.to_lowercase();
        let distance = |known: &TypeName| strsim::damerau_levenshtein(known.as_str(), &name);
        let close = self.by_name.keys().map(|known| (distance(known), known));
        close.filter(|(distance, _)| *distance <= 2).min().map(|(_, known)| known)
    }
}

/// A name that somebody sent, cut to what a name may have.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(limits::TYPE_NAME_BYTES) {
        Some((end, _)) => format!("\"{}…\"", name[..end].escape_debug()),
        None => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::task_type::PayloadKind;

    #[test]
    fn a_type_keeps_its_place_when_its_definition_changes() {
        let mut types = Types::default();
        for (place, name) in [(0, "hash"), (1, "sum")] {
            assert_eq!(types.place_for(&name.parse().unwrap()), Some(TypeId(place)));
            types.learn(TypeId(place), known(name, PayloadKind::Bytes));
        }
        types.learn(TypeId(0), known("hash", PayloadKind::Text));
        assert_eq!(types.find("hash"), Some(TypeId(0)));
        assert_eq!(types.name(TypeId(1)), "sum");
        assert!(types.knows(&known("hash", PayloadKind::Text).definition));
        assert!(!types.knows(&known("hash", PayloadKind::Bytes).definition));
    }

    #[test]
    fn an_unknown_type_is_told_with_the_known_ones_and_the_likely_one() {
        let mut types = Types::default();
        assert!(types.explain_unknown("hash").contains("no worker ever registered"));
        types.learn(TypeId(0), known("hash", PayloadKind::Bytes));
        types.learn(TypeId(1), known("sum", PayloadKind::Bytes));
        let meant = types.explain_unknown("hsah");
        assert!(meant.contains("did you mean \"hash\"") && meant.contains("hash, sum"), "{meant}");
        assert!(!types.explain_unknown("resize").contains("mean"));
        assert!(types.explain_unknown("SUM").contains("did you mean \"sum\""));
    }

    #[test]
    fn whatever_the_name_and_however_many_are_known_the_answer_is_short() {
        let mut types = Types::default();
        for place in 0..500 {
            types.learn(TypeId(place), known(&format!("type-{place:03}"), PayloadKind::Bytes));
        }
        let told = types.explain_unknown(&"typé-".repeat(4_000_000));
        assert!(told.len() < 2_000, "{}", told.len());
        assert!(told.contains("typé…\"") && told.ends_with(", and 450 more"), "{told}");
        assert!(types.explain_unknown("type-49").contains("did you mean \"type-049\""));
    }

    fn known(name: &str, payload: PayloadKind) -> Known {
        let checker = Arc::new(Checker::compile(&payload).unwrap());
        Known { definition: TaskType { name: name.parse().unwrap(), payload }, checker }
    }
}
