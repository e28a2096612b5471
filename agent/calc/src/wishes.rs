//! Addresses that a pod asks for.
//!
//! Who may: an operator reserves addresses in the pool for namespaces (`spec.reservations`), and a pod of such a
//! namespace asks for one by annotation. What the runtime itself passes on (capability `ips`, or `IP=` of CNI_ARGS: `podman run --ip`) is
//! root's own word and needs no reservation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use turnpike_model::resource::Resources;

use crate::plan::Family;

/// Annotation: one address of each family at most, separated by commas, or as a JSON list.
pub const ADDRESSES_ANNOTATION: &str = "turnpike.io/ip-addresses";

/// What a pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskedAddresses {
    /// One of each family at most.
    pub addresses: Vec<IpAddr>,
    /// The runtime asks, not the pod: no reservation is needed.
    pub by_runtime: bool,
}

/// A wish that cannot be fulfilled, whatever else is in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// Not an address.
    #[error("{origin} asks for `{text}`, which is no address")]
    Malformed {
        /// Annotation or capability.
        origin: &'static str,
        /// As written.
        text: String,
    },
    /// More than one of a family.
    #[error("{origin} asks for {first} and {second}: a pod has one {family} address")]
    Twice {
        /// Annotation or capability.
        origin: &'static str,
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
        /// Of both.
        family: Family,
    },
    /// No reservation gives it to the pod's namespace.
    #[error("{address} is not reserved for namespace {namespace}: pods may ask for reserved addresses only")]
    NotGranted {
        /// The address.
        address: IpAddr,
        /// The pod's namespace.
        namespace: String,
    },
}

/// Reads a pod's wishes. The runtime's go before the annotation.
///
/// # Errors
/// See [`WishError`].
pub fn asked_addresses(
    annotations: &BTreeMap<String, String>,
    runtime: &[String],
) -> Result<AskedAddresses, WishError> {
    if !runtime.is_empty() {
        let words = runtime.iter().map(String::as_str);
        return Ok(AskedAddresses { addresses: parse("runtimeConfig.ips", words)?, by_runtime: true });
    }
    let text = annotations.get(ADDRESSES_ANNOTATION).map(String::as_str).unwrap_or_default();
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let words = bare.split(',').map(|word| word.trim().trim_matches('"')).filter(|word| !word.is_empty());
    Ok(AskedAddresses { addresses: parse(ADDRESSES_ANNOTATION, words)?, by_runtime: false })
}

fn parse<'a>(origin: &'static str, words: impl Iterator<Item = &'a str>) -> Result<Vec<IpAddr>, WishError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for word in words {
        // Runtimes write a prefix length behind it, which means nothing here.
        let bare = word.split('/').next().unwrap_or_default();
        let address: IpAddr =
            bare.parse().map_err(|_| WishError::Malformed { origin, text: word.to_owned() })?;
        let family = Family::of(address);
        match addresses.iter().find(|known| Family::of(**known) == family) {
            Some(known) if *known == address => {}
            Some(first) => return Err(WishError::Twice { origin, first: *first, second: address, family }),
            None => addresses.push(address),
        }
    }
    Ok(addresses)
}

/// Are the wishes within what the namespace was granted?
///
/// # Errors
/// [`WishError::NotGranted`].
pub fn check_grant(
    asked: &AskedAddresses,
    namespace: Option<&str>,
    resources: &Resources,
) -> Result<(), WishError> {
    if asked.by_runtime {
        return Ok(());
    }
    let namespace = namespace.unwrap_or_default();
    let granted = |address: IpAddr| {
        let mut reservations = resources.pools.values().flat_map(|pool| &pool.reservations);
        reservations.any(|reservation| {
            reservation.cidr.holds(address) && reservation.namespaces.iter().any(|known| known == namespace)
        })
    };
    match asked.addresses.iter().find(|address| !granted(**address)) {
        Some(address) => Err(WishError::NotGranted { address: *address, namespace: namespace.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(text: &str) -> Result<AskedAddresses, WishError> {
        asked_addresses(&[(ADDRESSES_ANNOTATION.to_owned(), text.to_owned())].into(), &[])
    }

    #[test]
    fn one_address_of_each_family_is_read_in_either_writing() {
        for text in ["10.0.0.5,fd00::5", r#"["10.0.0.5", "fd00::5"]"#, " 10.0.0.5 , fd00::5 "] {
            let asked = annotated(text).unwrap();
            let words: Vec<String> = asked.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(words, ["10.0.0.5", "fd00::5"], "{text}");
            assert!(!asked.by_runtime);
        }
        assert_eq!(annotated("").unwrap(), AskedAddresses::default());
        let runtime = asked_addresses(&BTreeMap::new(), &["10.0.0.7/24".to_owned()]).unwrap();
        assert!(runtime.by_runtime && runtime.addresses == ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_origin() {
        assert!(annotated("web").unwrap_err().to_string().contains(ADDRESSES_ANNOTATION));
        assert!(matches!(annotated("10.0.0.5,10.0.0.6"), Err(WishError::Twice { .. })));
    }

    #[test]
    fn a_pod_may_ask_only_for_what_is_reserved_for_its_namespace() {
        let mut resources = Resources::default();
        let pool = r#"{"cidr":"10.0.0.0/16","reservations":[{"cidr":"10.0.0.8/29","namespaces":["db"]}]}"#;
        resources.pools.insert("p".to_owned(), serde_json::from_str(pool).unwrap());
        let asked = annotated("10.0.0.9").unwrap();
        assert_eq!(check_grant(&asked, Some("db"), &resources), Ok(()));
        for namespace in [Some("web"), None] {
            assert!(matches!(check_grant(&asked, namespace, &resources), Err(WishError::NotGranted { .. })));
        }
        let outside = annotated("10.0.0.99").unwrap();
        assert!(check_grant(&outside, Some("db"), &resources).unwrap_err().to_string().contains("10.0.0.99"));
        assert_eq!(check_grant(&AskedAddresses { by_runtime: true, ..outside }, None, &resources), Ok(()));
    }
}
