//! Frames on a stream socket, with open files passed along.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{FORMAT, Frame};

/// Longest frame either side takes, in bytes: a status with thousands of pods fits.
const MAX_FRAME: usize = 16 << 20;
/// Files passed with one frame.
const MAX_FILES: usize = 4;
const HEADER: usize = 4;

/// Why a frame could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed; a receive timeout shows as `WouldBlock`.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The other side closed before its frame was complete.
    #[error("the connection ended inside a frame")]
    Truncated,
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

/// Sends one message, with `files` passed along, and waits until all of it is written.
///
/// # Errors
/// The socket failed, or the message is longer than a frame may be.
pub fn write_frame<T: Serialize>(
    socket: impl AsFd,
    body: &T,
    files: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    let json = serde_json::to_vec(&Frame { format: FORMAT, body })?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(json.len()))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&json);

    let mut rest: &[u8] = &bytes;
    let mut files = files;
    while !rest.is_empty() {
        let sent = send_some(&socket, rest, files)?;
        files = &[];
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one frame"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Collects one frame and the files that came with it, from as many reads as it takes.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Receiver {
    /// Nothing received yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads until one frame is complete, and decodes it.
    ///
    /// # Errors
    /// The socket failed or timed out, or the frame is not understood.
    pub fn read_frame<T: DeserializeOwned>(
        mut self,
        socket: impl AsFd,
    ) -> Result<(T, Vec<OwnedFd>), FrameError> {
        loop {
            if let Some(length) = self.announced()?
                && self.bytes.len() >= HEADER + length
            {
                return self.decode(length);
            }
            if self.receive_some(&socket)? == 0 {
                return Err(FrameError::Truncated);
            }
        }
    }

    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME { Err(FrameError::TooLong(length)) } else { Ok(Some(length)) }
    }

    fn receive_some(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut chunk = [0_u8; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut chunk)];
            match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.bytes.extend_from_slice(chunk.get(..received).unwrap_or_default());
        Ok(received)
    }

    fn decode<T: DeserializeOwned>(self, length: usize) -> Result<(T, Vec<OwnedFd>), FrameError> {
        /// The format alone, so that a message of another release is named as such.
        #[derive(serde::Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let json = self.bytes.get(HEADER..HEADER + length).unwrap_or_default();
        let format = serde_json::from_slice::<FormatOnly>(json)?.format;
        if format != FORMAT {
            return Err(FrameError::Format(format));
        }
        let frame: Frame<T> = serde_json::from_slice(json)?;
        Ok((frame.body, self.files))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_frame_carries_message_and_file() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        write_frame(&ours, &"hello", &[file.as_fd()]).unwrap();
        let (text, files): (String, _) = Receiver::new().read_frame(&theirs).unwrap();
        assert_eq!(text, "hello");
        let mut passed = File::from(files.into_iter().next().unwrap());
        passed.rewind().unwrap();
        let mut content = String::new();
        passed.read_to_string(&mut content).unwrap();
        assert_eq!(content, "inside");
    }

    #[test]
    fn a_frame_longer_than_a_read_arrives_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let long = "x".repeat(1 << 20);
        let sender = std::thread::spawn({
            let long = long.clone();
            move || write_frame(&ours, &long, &[]).unwrap()
        });
        let (text, files): (String, _) = Receiver::new().read_frame(&theirs).unwrap();
        sender.join().unwrap();
        assert!(text == long && files.is_empty());
    }

    #[test]
    fn another_format_is_named() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let json = br#"{"format":7,"body":{"new":"shape"}}"#;
        ours.write_all(&(json.len() as u32).to_be_bytes()).unwrap();
        ours.write_all(json).unwrap();
        let error = Receiver::new().read_frame::<String>(&theirs).unwrap_err();
        assert!(matches!(error, FrameError::Format(7)), "{error}");
    }

    #[test]
    fn a_cut_or_absurd_frame_is_an_error_not_a_wait() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[0, 0, 0, 9, b'{']).unwrap();
        drop(ours);
        assert!(matches!(Receiver::new().read_frame::<String>(&theirs), Err(FrameError::Truncated)));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[0xff; 4]).unwrap();
        assert!(matches!(Receiver::new().read_frame::<String>(&theirs), Err(FrameError::TooLong(_))));
    }
}
