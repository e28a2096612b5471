//! One YAML document: which resource it is, and where its fields are.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Error as YamlError;
use turnpike_model::resource::{API_VERSION, Kind, Object, Resource, ResourceId};

use super::SourceError;
use super::located;

/// A document of a file. Its text has an empty line for each line of the file before it, so that lines count from
/// the file's beginning.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    file: PathBuf,
    text: String,
    first_line: u64,
}

/// A file's documents; those without content are left out.
pub(super) fn split(file: &Path, text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut close = |current: &mut String, line: usize| {
        let has_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let content = std::mem::replace(current, "\n".repeat(line));
        if let Some(first) = content.lines().position(has_content) {
            let first_line = first as u64 + 1;
            documents.push(Document { file: file.to_owned(), text: content, first_line });
        }
    };
    for (index, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line == "...";
        if marker {
            close(&mut current, index);
            current.push_str(line.trim_start_matches(['-', '.']));
        } else {
            current.push_str(line);
        }
        current.push('\n');
    }
    close(&mut current, 0);
    documents
}

impl Document {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The line of a field, or of the nearest one around it that is there.
    pub(super) fn line_of(&self, field: &str) -> u64 {
        located::line_of(&self.text, field).unwrap_or(self.first_line)
    }

    /// A mistake in a field of this document.
    pub(super) fn error_at(&self, field: &str, message: String, remedy: String) -> SourceError {
        SourceError {
            file: self.file.clone(),
            line: self.line_of(field),
            field: field.to_owned(),
            message,
            remedy,
        }
    }

    /// The resource that the document is.
    pub(super) fn parse(&self) -> Result<(ResourceId, Resource), SourceError> {
        let kind = self.kind()?;
        let resource = match kind {
            Kind::IpPool => Resource::IpPool(self.object()?),
            Kind::IpBlock => Resource::IpBlock(self.object()?),
            Kind::BgpConfiguration => Resource::BgpConfiguration(self.object()?),
            Kind::BgpPeer => Resource::BgpPeer(self.object()?),
            Kind::NodeBandwidth => Resource::NodeBandwidth(self.object()?),
            Kind::LoadBalancerSource => Resource::LoadBalancerSource(self.object()?),
            Kind::NamespaceGrant => Resource::NamespaceGrant(self.object()?),
        };
        let name = match &resource {
            Resource::IpPool(object) => &object.metadata.name,
            Resource::IpBlock(object) => &object.metadata.name,
            Resource::BgpConfiguration(object) => &object.metadata.name,
            Resource::BgpPeer(object) => &object.metadata.name,
            Resource::NodeBandwidth(object) => &object.metadata.name,
            Resource::LoadBalancerSource(object) => &object.metadata.name,
            Resource::NamespaceGrant(object) => &object.metadata.name,
        };
        if !is_name(name) {
            let message = format!("`{name}` is no name of a resource");
            let remedy =
                "use lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit";
            return Err(self.error_at("metadata.name", message, remedy.to_owned()));
        }
        let id = ResourceId { kind, name: name.clone() };
        Ok((id, resource))
    }

    fn kind(&self) -> Result<Kind, SourceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Header {
            api_version: Option<String>,
            kind: Option<String>,
        }
        let header: Header = self.read()?;
        match header.api_version.as_deref() {
            Some(API_VERSION) => {}
            Some(other) => {
                let message = format!("`{other}` is not read by this release");
                return Err(self.error_at("apiVersion", message, format!("write apiVersion: {API_VERSION}")));
            }
            None => {
                let remedy = format!("begin the document with apiVersion: {API_VERSION}");
                return Err(self.error_at("apiVersion", "it is missing".to_owned(), remedy));
            }
        }
        let name = header.kind.unwrap_or_default();
        Kind::from_name(&name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name);
            let remedy = remedy_for_name(&name, &known);
            let message = if name.is_empty() {
                "it is missing".to_owned()
            } else {
                format!("`{name}` is no kind of resource")
            };
            self.error_at("kind", message, remedy)
        })
    }

    fn object<S: DeserializeOwned>(&self) -> Result<Object<S>, SourceError> {
        self.read()
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, SourceError> {
        let path = RefCell::new(String::new());
        let options = serde_saphyr::options! { with_snippet: false };
        let result =
            serde_saphyr::with_deserializer_from_str_with_options(&self.text, options, |deserializer| {
                serde_path_to_error::deserialize(deserializer).map_err(
                    |error: serde_path_to_error::Error<YamlError>| {
                        path.replace(error.path().to_string());
                        error.into_inner()
                    },
                )
            });
        result.map_err(|error| self.explain(&error, path.into_inner()))
    }

    /// The parser's error in the operator's terms.
    fn explain(&self, error: &YamlError, path: String) -> SourceError {
        let error = error.without_snippet();
        let mut field = if path == "." { String::new() } else { path };
        let (message, remedy) = match error {
            YamlError::SerdeUnknownField { field: unknown, expected, .. } => {
                // The path ends with the unknown field itself, or with what holds it.
                if !field.ends_with(unknown.as_str()) {
                    field = [field, unknown.clone()]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect::<Vec<_>>()
                        .join(".");
                }
                (format!("there is no field `{unknown}` here"), remedy_for_name(unknown, expected))
            }
            YamlError::SerdeMissingField { field: missing, .. } => {
                (format!("`{missing}` is missing"), "add it".to_owned())
            }
            YamlError::SerdeUnknownVariant { variant, expected, .. } => {
                (format!("`{variant}` is not possible here"), remedy_for_name(variant, expected))
            }
            YamlError::SerdeInvalidType { unexpected, expected, .. }
            | YamlError::SerdeInvalidValue { unexpected, expected, .. } => {
                (format!("{unexpected} is not possible here"), format!("write {expected}"))
            }
            YamlError::Message { msg, .. } => (msg.to_string(), String::new()),
            YamlError::DuplicateMappingKey { key, .. } => (
                format!("`{}` is there twice", key.as_deref().unwrap_or("a key")),
                "keep one of them".to_owned(),
            ),
            other => (other.to_string(), String::new()),
        };
        let line = error.location().map_or(self.first_line, |location| location.line());
        SourceError { file: self.file.clone(), line, field, message, remedy }
    }
}

/// "did you mean", or all that is possible.
fn remedy_for_name(given: &str, possible: &[&'static str]) -> String {
    let close = possible.iter().map(|name| (distance(given, name), name)).min();
    match close {
        Some((distance, name)) if distance <= 2 => format!("did you mean `{name}`?"),
        _ => format!("possible are: {}", possible.join(", ")),
    }
}

/// Levenshtein's distance, case set aside.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.chars().zip(row.iter_mut().skip(1)) {
            let here = (*cell + 1).min(left + 1).min(diagonal + usize::from(x != y));
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// DNS subdomain, as Kubernetes demands of names.
fn is_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 253
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-' || c == '.')
}
