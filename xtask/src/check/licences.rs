//! Licences of all dependencies, by cargo metadata: no database to fetch, so it works on a machine without network.

use cargo_metadata::Metadata;

/// Licences that an Apache-2.0 program may be linked with. libnftnl itself (GPL-2.0-or-later, a system library) is
/// spoken of in README.md.
const FINE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages none of whose licence alternatives is in the list.
pub(super) fn unknown(metadata: &Metadata) -> Vec<String> {
    let packages = metadata.packages.iter();
    let bad = packages.filter(|p| !p.license.as_deref().is_some_and(acceptable));
    bad.map(|p| format!("{} {}: licence {:?} is not in the list of licences", p.name, p.version, p.license))
        .collect()
}

/// An SPDX expression holds when, for `OR`, one side does and, for `AND`, both do.
fn acceptable(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let plain = expression.replace(['(', ')'], " ");
    if expression.contains('(') {
        // Nested expressions are rare: demand that every licence named is fine.
        return plain.split(" OR ").flat_map(|part| part.split(" AND ")).all(|l| FINE.contains(&l.trim()));
    }
    plain.split(" OR ").any(|side| side.split(" AND ").all(|l| FINE.contains(&l.trim())))
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn one_good_alternative_is_enough_and_a_conjunction_needs_both() {
        assert!(acceptable("MIT OR GPL-3.0-only"));
        assert!(acceptable("MIT/Apache-2.0"));
        assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!acceptable("MIT AND GPL-3.0-only"));
        assert!(!acceptable("GPL-3.0-only"));
    }
}
