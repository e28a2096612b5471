//! What the kernel says when it refuses.

use std::io;

use crate::DataplaneError;

/// Why the kernel refused a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    source: io::Error,
    text: Option<String>,
}

impl Refusal {
    pub(crate) fn from_errno(errno: i32, text: Option<String>) -> Self {
        Self { source: io::Error::from_raw_os_error(errno), text }
    }

    /// The errno, if the kernel gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// True for the given errno.
    pub(crate) fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }

    /// True where the object to be removed or read is not there.
    pub(crate) fn is_absent(&self) -> bool {
        [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENXIO]
            .iter()
            .any(|errno| self.is(*errno))
    }

    /// Names the request.
    pub(crate) fn doing(self, what: impl Into<String>) -> DataplaneError {
        let mut what = what.into();
        if let Some(text) = self.text {
            what = format!("{what}: {text}");
        }
        DataplaneError::Netlink { what, source: self.source }
    }

    /// The kernel's words and errno in one line.
    pub(crate) fn words(&self) -> String {
        match &self.text {
            Some(text) => format!("{text} ({})", self.source),
            None => self.source.to_string(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self { source, text: None }
    }
}
