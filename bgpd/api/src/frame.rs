//! Frames: a big-endian `u32` length and that many bytes of JSON, `{"format": 1, "body": …}`.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::FORMAT;

/// Longest frame either side takes, in bytes: a few ten thousand paths.
pub const MAX_FRAME: usize = 16 << 20;

/// Why a frame could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed; a receive timeout shows as `WouldBlock`.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The length is beyond reason.
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong(usize),
    /// Not the JSON expected.
    #[error("the frame's content is not understood: {0}")]
    Decode(#[from] serde_json::Error),
    /// Another release's protocol.
    #[error(
        "the other side speaks protocol format {0}, this side {FORMAT}; install the same release of both"
    )]
    Format(u32),
}

#[derive(Serialize, Deserialize)]
struct Frame<T> {
    format: u32,
    body: T,
}

/// The format alone, read before the body so that another format is named as such.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A message as the bytes of its frame, length included.
///
/// # Errors
/// The message is longer than a frame may be, or has no JSON form.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(&Frame { format: FORMAT, body })?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(json.len()))?;
    let mut bytes = Vec::with_capacity(json.len() + 4);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

/// The message in a frame's content (the bytes behind the length).
///
/// # Errors
/// Another format, or not the JSON expected.
pub fn decode<T: DeserializeOwned>(content: &[u8]) -> Result<T, FrameError> {
    let FormatOnly { format } = serde_json::from_slice(content)?;
    if format != FORMAT {
        return Err(FrameError::Format(format));
    }
    let frame: Frame<T> = serde_json::from_slice(content)?;
    Ok(frame.body)
}

/// Writes one frame.
///
/// # Errors
/// See [`encode`], and the writer's own.
pub fn write_frame<T: Serialize>(mut writer: impl Write, body: &T) -> Result<(), FrameError> {
    writer.write_all(&encode(body)?)?;
    Ok(writer.flush()?)
}

/// Reads one frame.
///
/// # Errors
/// See [`decode`], and the reader's own (`UnexpectedEof` when the other side closed).
pub fn read_frame<T: DeserializeOwned>(mut reader: impl Read) -> Result<T, FrameError> {
    let mut header = [0; 4];
    reader.read_exact(&mut header)?;
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let mut content = vec![0; length];
    reader.read_exact(&mut content)?;
    decode(&content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    #[test]
    fn frames_survive_a_round_trip_and_name_a_foreign_format() {
        let bytes = encode(&Request::Status).unwrap();
        assert_eq!(read_frame::<Request>(&bytes[..]).unwrap(), Request::Status);
        let foreign = br#"{"format":9,"body":{"anything":1}}"#;
        assert!(matches!(decode::<Request>(foreign), Err(FrameError::Format(9))));
    }

    #[test]
    fn a_frame_of_unreasonable_length_is_refused_unread() {
        let header = u32::MAX.to_be_bytes();
        assert!(matches!(read_frame::<Request>(&header[..]), Err(FrameError::TooLong(_))));
    }
}
