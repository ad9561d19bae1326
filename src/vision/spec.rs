//! Reads sizes in files: one number, a list, or named edges. If a file has none, the default of the
//! processor or the model's size applies.

use crate::vision::ProcessorError;
use crate::vision::family::{DefaultSize, Family, Rule};
use crate::vision::keys::{ImageKeys, SizeKey};
use crate::vision::size::Size;

/// Maximum pixels of an edge in a file.
pub(super) const MAX_EDGE: u32 = 16_384;

/// A size in a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spec {
    Exact(Size),
    Shortest(u32),
    ShortestUpTo(u32, u32),
    Longest(u32),
    Within(Size),
}

impl Spec {
    /// The size if the file has none, and whether it is the model's.
    pub(super) fn by_default(family: &Family, model: Option<Size>) -> Option<(Self, bool)> {
        let own = match family.size {
            DefaultSize::Open => None,
            DefaultSize::Square(edge) => Some(Spec::Exact(Size::square(edge))),
            DefaultSize::Shortest(edge) => Some(Spec::Shortest(edge)),
            DefaultSize::ShortestUpTo(edge, longest) => Some(Spec::ShortestUpTo(edge, longest)),
            DefaultSize::Longest(edge) => Some(Spec::Longest(edge)),
        };
        let Some(model) = model else {
            return own.map(|spec| (spec, false));
        };
        let output = match (family.crops, family.crop, family.pads, family.size) {
            (true, Some(edge), _, _) | (false, _, Some(edge), _) | (false, _, None, DefaultSize::Square(edge)) => {
                Some(Size::square(edge))
            }
            _ => None,
        };
        match own {
            Some(own) if output == Some(model) => Some((own, false)),
            Some(Spec::Shortest(_)) if model.height == model.width => Some((Spec::Shortest(model.height), true)),
            _ => Some((Spec::Exact(model), true)),
        }
    }

    /// Interprets the key `size`.
    pub(super) fn of_key(size: &SizeKey, family: &Family, keys: &ImageKeys) -> Result<Self, ProcessorError> {
        let key = "size";
        let square = keys.default_to_square.unwrap_or(family.square);
        let spec = match size {
            SizeKey::Edge(edge) if square => Spec::Exact(Size::square(*edge)),
            SizeKey::Edge(edge) => {
                let longest = match family.size {
                    DefaultSize::ShortestUpTo(_, longest) => Some(longest),
                    _ => None,
                };
                match keys.max_size.or(longest) {
                    Some(longest) => Spec::ShortestUpTo(*edge, longest),
                    None if matches!(family.rule, Rule::Sam) => Spec::Longest(*edge),
                    None => Spec::Shortest(*edge),
                }
            }
            SizeKey::HeightWidth(_) => Spec::Exact(exact(key, size)?),
            SizeKey::Edges(edges) => match (
                (edges.height, edges.width),
                (edges.shortest_edge, edges.longest_edge),
                (edges.max_height, edges.max_width),
            ) {
                ((Some(height), Some(width)), _, _) => Spec::Exact(Size { height, width }),
                (_, (Some(shortest), Some(longest)), _) => Spec::ShortestUpTo(shortest, longest),
                (_, (Some(shortest), None), _) => Spec::Shortest(shortest),
                (_, (None, Some(longest)), _) => Spec::Longest(longest),
                (_, _, (Some(height), Some(width))) => Spec::Within(Size { height, width }),
                _ => {
                    let problem = "expected \"height\" and \"width\", \"shortest_edge\", \"longest_edge\", or \
                                   \"max_height\" and \"max_width\"";
                    return Err(ProcessorError::value(key, problem));
                }
            },
        };
        match spec {
            Spec::Exact(size) | Spec::Within(size) => check_edges(key, &[size.height, size.width])?,
            Spec::Shortest(edge) | Spec::Longest(edge) => check_edges(key, &[edge])?,
            Spec::ShortestUpTo(shortest, longest) => check_edges(key, &[shortest, longest])?,
        }
        Ok(spec)
    }
}

/// Reads a key that sets both edges.
pub(super) fn exact(key: &str, size: &SizeKey) -> Result<Size, ProcessorError> {
    let size = match size {
        SizeKey::Edge(edge) => Size::square(*edge),
        SizeKey::HeightWidth([height, width]) => Size {
            height: *height,
            width: *width,
        },
        SizeKey::Edges(edges) => match (edges.height, edges.width, edges.shortest_edge) {
            (Some(height), Some(width), _) => Size { height, width },
            (None, None, Some(edge)) => Size::square(edge),
            _ => return Err(ProcessorError::value(key, "expected \"height\" and \"width\"")),
        },
    };
    check_edges(key, &[size.height, size.width])?;
    Ok(size)
}

fn check_edges(key: &str, edges: &[u32]) -> Result<(), ProcessorError> {
    match edges.iter().find(|edge| !(1..=MAX_EDGE).contains(edge)) {
        None => Ok(()),
        Some(edge) => Err(ProcessorError::value(
            key,
            format!("{edge} is not a valid edge; expected 1 to {MAX_EDGE} pixels"),
        )),
    }
}
