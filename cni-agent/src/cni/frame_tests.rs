//! Frames over real sockets.

use super::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{IoSlice, Write},
    os::fd::{AsFd, BorrowedFd},
};

/// A connection: the end under test, and the peer's, blocking.
fn pair() -> (UnixStream, std::os::unix::net::UnixStream) {
    let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), peer)
}

fn bytes(value: &Value) -> Vec<u8> {
    to_frame(value).unwrap().to_vec()
}

fn send_with(peer: &std::os::unix::net::UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(peer, &parts, &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

#[tokio::test]
async fn what_is_written_is_read() {
    let (mut ours, peer) = pair();
    peer.set_nonblocking(true).unwrap();
    let mut theirs = UnixStream::from_std(peer).unwrap();
    for value in [json!(null), json!({"a": "ä"}), json!("x".repeat(900_000))] {
        let (written, read) = tokio::join!(
            write_frame(&mut ours, &value),
            read_frame::<Value>(&mut theirs)
        );
        written.unwrap();
        assert_eq!(read.unwrap(), value);
    }
}

#[tokio::test]
async fn a_frame_in_single_bytes_is_read_whole() {
    let (mut ours, mut peer) = pair();
    let sending = std::thread::spawn(move || {
        for byte in bytes(&json!({"k": [1, 2, 3]})) {
            peer.write_all(&[byte]).unwrap();
        }
        peer
    });
    assert_eq!(
        read_frame::<Value>(&mut ours).await.unwrap(),
        json!({"k": [1, 2, 3]})
    );
    sending.join().unwrap();
}

#[tokio::test]
async fn the_descriptor_arrives_and_does_not_survive_an_exec() {
    let (mut ours, peer) = pair();
    let file = File::open("/dev/null").unwrap();
    send_with(&peer, &bytes(&json!(1)), &[file.as_fd()]);
    let (value, descriptor) = read_frame_with_fd::<Value>(&mut ours).await.unwrap();
    let descriptor = descriptor.unwrap();
    assert_eq!(value, 1);
    let number = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_rdev;
    assert_eq!(number(descriptor.as_fd()), number(file.as_fd()));
    let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[tokio::test]
async fn more_than_one_descriptor_is_refused() {
    for count in [2, 3, 8] {
        let (mut ours, peer) = pair();
        let file = File::open("/dev/null").unwrap();
        send_with(&peer, &bytes(&json!(1)), &vec![file.as_fd(); count]);
        let error = read_frame_with_fd::<Value>(&mut ours).await.unwrap_err();
        assert!(matches!(error, FrameError::Descriptors(_)), "{error}");
        assert_eq!(error.into_cni().unwrap().code, 6);
    }
}

#[test]
fn a_descriptor_that_there_was_no_room_for_is_no_fault_of_the_callers() {
    let error = not_taken(0).into_cni().unwrap();
    assert_eq!(error.code, 11);
    assert!(error.to_string().contains("too many files"), "{error}");
    assert_eq!(not_taken(1).into_cni().unwrap().code, 6);
}

#[tokio::test]
async fn headers_are_judged_as_the_golden_file_has_them() {
    let text = include_str!("../../../cni-shim/tests/golden/protocol-v1.json");
    let golden: Value = serde_json::from_str(text).unwrap();
    for row in golden["headers"].as_array().unwrap() {
        let number = u64::from_str_radix(row["hex"].as_str().unwrap(), 16).unwrap();
        let length = body_length(number.to_be_bytes(), MAX_BODY).ok();
        assert_eq!(json!(length), row["length"], "{row}");
    }
}

#[tokio::test]
async fn each_fault_of_a_frame_has_its_code() {
    let body = |bytes: &[u8]| [b"FL\0\x01\0\0\0".as_slice(), &[bytes.len() as u8], bytes].concat();
    for (sent, code) in [
        (b"FL\0\x02\0\0\0\x01x".to_vec(), 1),
        (b"GET / HTTP/1.1\r\n".to_vec(), 6),
        (b"FL\0\x01\0\x10\0\x01".to_vec(), 7),
        (body(b"{"), 6),
        (body(b"\xff"), 6),
    ] {
        let (mut ours, mut peer) = pair();
        peer.write_all(&sent).unwrap();
        let error = read_frame::<Value>(&mut ours).await.unwrap_err();
        assert_eq!(error.into_cni().unwrap().code, code, "{sent:?}");
    }
    for sent in [&b""[..], b"FL\0", b"FL\0\x01\0\0\0\x09half"] {
        let (mut ours, mut peer) = pair();
        peer.write_all(sent).unwrap();
        drop(peer);
        let error = read_frame::<Value>(&mut ours).await.unwrap_err();
        let error = error.into_cni().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{sent:?}");
    }
}

#[tokio::test]
async fn an_answer_to_a_person_may_be_larger_than_one_to_a_plugin() {
    for (large, taken) in [(true, true), (false, false)] {
        let (mut ours, peer) = pair();
        peer.set_nonblocking(true).unwrap();
        let mut peer = UnixStream::from_std(peer).unwrap();
        let text = json!("x".repeat(MAX_BODY));
        let writing = write_frame(&mut peer, &text);
        let reading = async {
            let read = if large {
                read_answer::<Value>(&mut ours).await
            } else {
                read_frame(&mut ours).await
            };
            drop(ours);
            read
        };
        let (_written, read) = tokio::join!(writing, reading);
        assert_eq!(read.is_ok(), taken, "{:?}", read.err());
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_sent() {
    let (mut ours, _peer) = pair();
    let error = write_frame(&mut ours, &json!("x".repeat(MAX_ANSWER)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
