//! Patterns of AS paths, as policies write them: words for ASes, from the latest to the origin.
//!
//! Not regular expressions: those match digits, so that `_65001_` needs its underscores and `6500.` matches 65001 and
//! 650012 alike. Here a word is an AS, a pattern always stands for the whole path, and matching takes time
//! proportional to words times hops whatever the pattern.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AsPath, Segment, SegmentKind};
use crate::Asn;

/// A pattern that AS paths match or not, such as `65001 * 65100-65199`.
///
/// Words, separated by spaces: an AS number; a range `64512-65534`; several of these `65001|65010-65019`; `?` for any
/// one AS; `*` for any number of any, none included. A `+` after a word lets it stand for one or more in a row, as
/// prepending leaves them. The empty pattern matches the empty path: what our own AS originates. An AS_SET stands for
/// one AS, which is any of its members.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AsPathPattern(Vec<Word>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Word {
    /// `*`.
    Any,
    /// Anything else, with its `+`.
    One { ases: Ases, repeated: bool },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Ases {
    /// `?`.
    All,
    /// Ranges, both ends included.
    Ranges(Vec<(Asn, Asn)>),
}

/// The text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{word}` is no word of an AS path pattern: AS numbers (`65001`), ranges (`64512-65534`), several (`65001|65002`), `?` for any one, `*` for any number, `+` behind a word that may repeat"
)]
pub struct ParseAsPathPatternError {
    word: String,
}

/// One step of a path: an AS, or the members of a set.
type Hop = Vec<Asn>;

impl AsPathPattern {
    /// True if the whole path matches.
    pub fn matches(&self, path: &AsPath) -> bool {
        let hops: Vec<Hop> = path.segments().flat_map(hops).collect();
        // Which numbers of hops the words so far can stand for.
        let mut reached = vec![false; hops.len() + 1];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        for word in &self.0 {
            reached = word.advance(&reached, &hops);
        }
        reached.last().copied().unwrap_or(false)
    }
}

fn hops(segment: Segment<'_>) -> Vec<Hop> {
    match segment.kind {
        SegmentKind::Sequence => segment.asns().map(|asn| vec![asn]).collect(),
        SegmentKind::Set => vec![segment.asns().collect()],
    }
}

impl Word {
    fn advance(&self, reached: &[bool], hops: &[Hop]) -> Vec<bool> {
        let mut next = Vec::with_capacity(reached.len());
        let mut before = false;
        for (index, here) in reached.iter().enumerate() {
            let came = match self {
                Word::Any => before || *here,
                Word::One { ases, repeated } => {
                    let hop = index.checked_sub(1).and_then(|at| Some((reached.get(at)?, hops.get(at)?)));
                    hop.is_some_and(|(from, hop)| (*from || *repeated && before) && ases.hold(hop))
                }
            };
            next.push(came);
            before = came;
        }
        next
    }
}

impl Ases {
    fn hold(&self, hop: &[Asn]) -> bool {
        match self {
            Ases::All => true,
            Ases::Ranges(ranges) => {
                hop.iter().any(|asn| ranges.iter().any(|(first, last)| (first..=last).contains(&asn)))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "?" {
            return Some(Ases::All);
        }
        let range = |part: &str| -> Option<(Asn, Asn)> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<Asn>().ok()?, last.parse::<Asn>().ok()?);
            (first.0 != 0 && first <= last).then_some((first, last))
        };
        text.split('|').map(range).collect::<Option<Vec<_>>>().map(Ases::Ranges)
    }
}

impl FromStr for AsPathPattern {
    type Err = ParseAsPathPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |word: &str| {
            if word == "*" {
                return Ok(Word::Any);
            }
            let (ases, repeated) = match word.strip_suffix('+') {
                Some(ases) => (ases, true),
                None => (word, false),
            };
            let ases = Ases::parse(ases).ok_or_else(|| ParseAsPathPatternError { word: word.to_owned() })?;
            Ok(Word::One { ases, repeated })
        };
        text.split_whitespace().map(word).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

impl fmt::Display for AsPathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            match word {
                Word::Any => f.write_str("*")?,
                Word::One { ases, repeated } => {
                    ases.fmt(f)?;
                    f.write_str(if *repeated { "+" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Ases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ases::Ranges(ranges) = self else { return f.write_str("?") };
        for (index, (first, last)) in ranges.iter().enumerate() {
            let bar = if index == 0 { "" } else { "|" };
            match first == last {
                true => write!(f, "{bar}{first}")?,
                false => write!(f, "{bar}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for AsPathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AsPathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &AsPath) -> bool {
        let parsed: AsPathPattern = pattern.parse().unwrap();
        assert_eq!(parsed.to_string(), pattern);
        parsed.matches(path)
    }

    #[test]
    fn a_pattern_stands_for_the_whole_path_and_a_word_for_an_as() {
        let path = AsPath::sequence([65001, 65001, 65002, 64600].map(Asn));
        for good in [
            "*",
            "65001 *",
            "* 64600",
            "65001+ 65002 64512-65000",
            "? ? ? ?",
            "?+",
            "* 65002 *",
            "* 7|65002 ?",
        ] {
            assert!(matches(good, &path), "{good}");
        }
        for bad in ["", "65001", "65001 65002 64600", "6500 *", "* 65002", "? ? ?", "65002+ *"] {
            assert!(!matches(bad, &path), "{bad}");
        }
        assert!(matches("", &AsPath::default()) && matches("*", &AsPath::default()));
        assert!(!matches("?", &AsPath::default()));
    }

    #[test]
    fn a_set_is_one_as_that_is_any_of_its_members() {
        let path = AsPath::decode(&[2, 1, 0, 0, 0, 9, 1, 2, 0, 0, 0, 7, 0, 0, 0, 8], true).unwrap();
        assert!(matches("9 7", &path) && matches("9 8", &path) && matches("9 ?", &path));
        assert!(!matches("9 7 8", &path));
    }

    #[test]
    fn mistakes_name_the_word() {
        for bad in ["65001 _65002_", "65010-65001", "0", "65001||2", "+"] {
            assert!(bad.parse::<AsPathPattern>().is_err(), "{bad}");
        }
        let error = "65001 65.*".parse::<AsPathPattern>().unwrap_err();
        assert!(error.to_string().starts_with("`65.*` is no word of an AS path pattern"), "{error}");
    }
}
