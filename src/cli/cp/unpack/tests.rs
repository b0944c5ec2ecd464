//! What hostile archives cannot do, and what honest ones can.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// A member as anybody could write it: nothing of the name is checked.
#[derive(Clone, Debug)]
struct Raw {
    kind: EntryType,
    name: String,
    link: String,
    mode: u32,
    content: Vec<u8>,
}

fn raw(kind: EntryType, name: &str, link: &str) -> Raw {
    let content = if kind == EntryType::Regular { b"hostile".to_vec() } else { vec![] };
    Raw { kind, name: name.into(), link: link.into(), mode: 0o644, content }
}

fn archive(members: &[Raw]) -> Vec<u8> {
    let mut builder = Builder::new(vec![]);
    for member in members {
        let mut header = Header::new_gnu();
        header.set_entry_type(member.kind);
        header.set_mode(member.mode);
        header.set_size(member.content.len() as u64);
        let fields = header.as_old_mut();
        fields.name[..member.name.len()].copy_from_slice(member.name.as_bytes());
        fields.linkname[..member.link.len()].copy_from_slice(member.link.as_bytes());
        header.set_cksum();
        builder.append(&header, member.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn asked(path: &str) -> Vec<OsString> {
    path.split('/').filter(|p| !p.is_empty()).map(OsString::from).collect()
}

/// Everything below a directory, by its path: what it is and what it holds.
fn survey(root: &Path) -> Vec<(PathBuf, String)> {
    let mut all = vec![];
    let mut left = vec![root.to_owned()];
    while let Some(at) = left.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        let what = if meta.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
            format!("directory {:o}", meta.mode())
        } else if meta.is_symlink() {
            format!("link to {}", fs::read_link(&at).unwrap().display())
        } else {
            format!("file {:o} {:?}", meta.mode(), fs::read(&at).unwrap())
        };
        all.push((at, what));
    }
    all.sort();
    all
}

/// A directory to copy to, beside one that nobody may touch and links that lead there.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        Ground { dir }
    }

    fn to(&self) -> PathBuf {
        self.dir.path().join("to")
    }

    fn around(&self) -> Vec<(PathBuf, String)> {
        let to = self.to();
        // the directory itself gets entries, and keeps its rights
        survey(self.dir.path()).into_iter().filter(|(path, _)| *path == to || !path.starts_with(&to)).collect()
    }

    fn links_lead_inside(&self) {
        let root = self.to().canonicalize().unwrap();
        for (path, what) in survey(&self.to()) {
            if what.starts_with("link") && path.exists() {
                let end = path.canonicalize().unwrap();
                assert!(end.starts_with(&root), "{} leads to {}", path.display(), end.display());
            }
        }
    }
}

fn names() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", ".", "", "outside", "canary", "to"]);
    let absolute = prop::sample::select(vec!["", "/", "./", "../"]);
    (absolute, prop::collection::vec(part, 0..5)).prop_map(|(start, parts)| format!("{start}{}", parts.join("/")))
}

fn members() -> impl Strategy<Value = Vec<Raw>> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
    ]);
    prop::collection::vec((kind, names(), names()).prop_map(|(kind, name, link)| raw(kind, &name, &link)), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Neither in one go nor, member by member, in many: then one that is refused does not keep the next from trying.
    #[test]
    fn no_archive_reaches_outside(members in members()) {
        let ground = Ground::new();
        let before = ground.around();
        let _ = unpack(archive(&members).as_slice(), &[], &ground.to(), false);
        for member in &members {
            let _ = unpack(archive(std::slice::from_ref(member)).as_slice(), &[], &ground.to(), false);
        }
        prop_assert_eq!(ground.around(), before);
        ground.links_lead_inside();
    }

    #[test]
    fn what_is_no_archive_is_an_error_and_reaches_nothing(bytes in prop::collection::vec(any::<u8>(), 1..2000)) {
        let ground = Ground::new();
        let before = ground.around();
        let _ = unpack(bytes.as_slice(), &asked("a"), &ground.to(), false);
        prop_assert_eq!(ground.around(), before);
    }
}

#[test]
fn every_known_way_out_is_closed() {
    use EntryType::{Link, Regular, Symlink};
    for members in [
        vec![raw(Regular, "../outside/new", "")],
        vec![raw(Regular, "a/../../outside/new", "")],
        vec![raw(Symlink, "l", "../outside"), raw(Regular, "l/canary", "")],
        vec![raw(Symlink, "l", "/"), raw(Regular, "l/tmp/x", "")],
        // over two links, each of which looks harmless to one who only reads
        vec![raw(Symlink, "d", "."), raw(Symlink, "e", "d/../outside"), raw(Regular, "e/canary", "")],
        // a link that is confined where it is, and not where it goes
        vec![raw(Symlink, "x/l", "../outside"), raw(Link, "m", "x/l"), raw(Regular, "m/canary", "")],
        vec![raw(Link, "l", "../outside/canary"), raw(Regular, "l", "")],
        vec![raw(Symlink, "f", "a"), raw(Symlink, "f", "../outside/canary"), raw(Regular, "f", "")],
    ] {
        let ground = Ground::new();
        let before = ground.around();
        let _ = unpack(archive(&members).as_slice(), &[], &ground.to(), false);
        assert_eq!(ground.around(), before, "{members:?}");
        ground.links_lead_inside();
    }
}

#[test]
fn links_that_were_there_are_not_followed() {
    let ground = Ground::new();
    std::os::unix::fs::symlink("../outside", ground.to().join("there")).unwrap();
    std::os::unix::fs::symlink("../outside/canary", ground.to().join("file")).unwrap();
    let before = ground.around();
    let over = archive(&[raw(EntryType::Regular, "there/canary", "")]);
    let error = unpack(over.as_slice(), &[], &ground.to(), false).unwrap_err().to_string();
    assert!(error.contains("there is no directory here"), "{error}");
    unpack(archive(&[raw(EntryType::Regular, "file", "")]).as_slice(), &[], &ground.to(), false).unwrap();
    assert_eq!(ground.around(), before);
    assert!(fs::symlink_metadata(ground.to().join("file")).unwrap().is_file(), "it is replaced, not written through");
}

#[test]
fn a_tree_comes_out_with_its_modes_and_links() {
    let ground = Ground::new();
    let member = |kind, name: &str, link: &str, mode| Raw { mode, ..raw(kind, name, link) };
    let sent = [
        member(EntryType::Directory, "srv/app/", "", 0o750),
        member(EntryType::Directory, "srv/app/locked", "", 0o555),
        member(EntryType::Regular, "srv/app/locked/run", "", 0o6711),
        member(EntryType::Symlink, "srv/app/locked/up", "../other", 0o777),
        member(EntryType::Link, "srv/app/again", "srv/app/locked/run", 0o711),
        member(EntryType::Regular, "srv/app/deep/er/file", "", 0o600),
    ];
    let to = ground.to().join("new/place");
    unpack(archive(&sent).as_slice(), &asked("srv/app"), &to, false).unwrap();
    let mode = |name: &str| fs::symlink_metadata(to.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode(""), mode("locked"), mode("locked/run"), mode("deep/er/file")), (0o750, 0o755, 0o711, 0o600));
    assert_eq!(fs::read_link(to.join("locked/up")).unwrap(), PathBuf::from("../other"));
    assert_eq!(fs::metadata(to.join("again")).unwrap().ino(), fs::metadata(to.join("locked/run")).unwrap().ino());
    let strange = archive(&[raw(EntryType::Regular, "etc/passwd", "")]);
    let error = unpack(strange.as_slice(), &asked("srv/app"), &to, false).unwrap_err().to_string();
    assert!(error.contains("\"etc/passwd\", which was not asked for"), "{error}");
}

#[test]
fn a_file_goes_where_it_is_told_or_into_a_directory() {
    let ground = Ground::new();
    let sent = archive(&[Raw { mode: 0o640, ..raw(EntryType::Regular, "srv/file", "") }]);
    let put = |to: &str, slash| unpack(sent.as_slice(), &asked("srv/file"), &ground.dir.path().join(to), slash);
    put("to", false).unwrap();
    put("deep/renamed", false).unwrap();
    for path in ["to/file", "deep/renamed"] {
        let path = ground.dir.path().join(path);
        assert_eq!(
            (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().mode() & 0o777),
            (b"hostile".to_vec(), 0o640)
        );
    }
    assert!(put("missing/", true).unwrap_err().to_string().contains("not a directory"));
    let link = archive(&[raw(EntryType::Symlink, "srv/file", "other")]);
    let error = unpack(link.as_slice(), &asked("srv/file"), &ground.to(), false).unwrap_err().to_string();
    assert!(error.contains("is a symbolic link to \"other\": copy that"), "{error}");
}

#[test]
fn long_names_arrive_and_headers_without_measure_do_not() {
    let ground = Ground::new();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    let mut builder = Builder::new(vec![]);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(2);
    builder.append_data(&mut header, &long, &b"hi"[..]).unwrap();
    unpack(builder.into_inner().unwrap().as_slice(), &[], &ground.to(), false).unwrap();
    assert_eq!(fs::read(ground.to().join(&long)).unwrap(), b"hi");

    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b'x'));
    let error = unpack(endless, &[], &ground.to(), false).unwrap_err().to_string();
    assert!(error.contains("more than 1 MiB"), "{error}");
}

#[test]
fn an_archive_that_breaks_off_is_an_error() {
    let whole = archive(&[Raw { content: vec![7; 3000], ..raw(EntryType::Regular, "a/file", "") }]);
    for end in [100, 512, 1000, 3500] {
        let ground = Ground::new();
        let cut = io::Read::chain(&whole[..end], Broken);
        assert!(unpack(cut, &asked("a"), &ground.to(), false).is_err(), "cut at {end}");
    }
}

/// As [`super::super::pipe::Source`] ends when the other side is gone.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
