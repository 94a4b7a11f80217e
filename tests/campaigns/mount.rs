//! File systems of the campaigns' own, made for a run and unmounted at its end: an ext4 in
//! a file, whose power can be cut, one in memory, which can be filled, and an XFS in a file of
//! that one, whose disk fails while it is full.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// Bytes of one in a file: what two hundred thousand tasks need, and a few times that.
const BYTES: u64 = 512 << 20;

/// What to tell who has none.
pub(crate) const WANTED: &str = "to be root and mount file systems, python3, mkfs.ext4 and mkfs.xfs \
     (apt-get install e2fsprogs xfsprogs)";

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither dirty pages nor the
/// journal are written, and nothing is from then on. There is no safe call for it in Rust.
/// Done at a word, so that no start of a program comes before it.
const CUT: &str = "import fcntl, os, struct, sys
place, how = os.open(sys.argv[1], os.O_RDONLY), struct.pack('I', 2)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(place, 0x8004587d, how)";

/// A mounted file system.
pub(crate) struct Mount {
    /// The place where it is mounted.
    dir: TempDir,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    InFile { image: PathBuf },
    Memory { bytes: u64 },
}

impl Mount {
    /// An ext4 in a file.
    pub(crate) fn ext4() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("image");
        File::create(&image)?.set_len(BYTES)?;
        let mut make = Command::new("mkfs.ext4");
        run(make.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]).arg(&image))?;
        let mount = Self::prepare(dir, Kind::InFile { image })?;
        mount.mount()?;
        // Whoever cannot cut the power learns it here.
        mount.cut_power()?;
        mount.mount_again()?;
        Ok(mount)
    }

    /// An XFS in a file of another file system, which has blocks of that one only for what
    /// was written. While that one is full, whatever grows cannot be synced, and the system
    /// says so once. What XFS notes for itself it writes again until it can; an ext4 without a
    /// journal loses some of it, and with it what was synced long before.
    pub(crate) fn xfs_within(other: &Self) -> io::Result<Self> {
        let image = other.path().join("image");
        File::create(&image)?.set_len(BYTES)?;
        run(Command::new("mkfs.xfs").args(["-q", "-K"]).arg(&image))?;
        let mount = Self::prepare(tempfile::tempdir()?, Kind::InFile { image })?;
        mount.mount()?;
        Ok(mount)
    }

    /// One of so many bytes in memory.
    pub(crate) fn in_memory(bytes: u64) -> io::Result<Self> {
        let mount = Self::prepare(tempfile::tempdir()?, Kind::Memory { bytes })?;
        mount.mount()?;
        Ok(mount)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// Drops everything that is not on the disk. Who has files open cannot write them any
    /// more.
    pub(crate) fn cut_power(&self) -> io::Result<()> {
        self.cutter()?.cut()
    }

    /// What cuts the power at once when it is told to.
    pub(crate) fn cutter(&self) -> io::Result<Cutter> {
        let mut command = Command::new("python3");
        command.args(["-c", CUT]).arg(self.path()).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut ready = [0; 6];
        let told = child.stdout.take().expect("it was asked for").read_exact(&mut ready);
        match told {
            Ok(()) => Ok(Cutter(child)),
            Err(_) => Err(complaint(&child.wait_with_output()?)),
        }
    }

    /// What comes after a cut; without one, only what memory holds of it is forgotten.
    /// Nobody may have a file open.
    pub(crate) fn mount_again(&self) -> io::Result<()> {
        run(Command::new("umount").arg(self.path()))?;
        self.mount()
    }

    /// Leaves no space in it but for what is in files already.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut ballast = File::create(self.ballast())?;
        let chunk = vec![0x5a; 1 << 20];
        let mut length = chunk.len();
        while length > 0 {
            match ballast.write(&chunk[..length]) {
                Ok(0) => length = 0,
                Ok(_) => {}
                Err(full) if full.kind() == io::ErrorKind::StorageFull => length /= 2,
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn empty(&self) -> io::Result<()> {
        std::fs::remove_file(self.ballast())
    }

    fn prepare(dir: TempDir, kind: Kind) -> io::Result<Self> {
        let mount = Self { dir, kind };
        std::fs::create_dir(mount.path())?;
        Ok(mount)
    }

    fn mount(&self) -> io::Result<()> {
        let mut mount = Command::new("mount");
        match &self.kind {
            Kind::InFile { image } => mount.args(["-o", "loop"]).arg(image),
            Kind::Memory { bytes } => {
                mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "campaign"])
            }
        };
        run(mount.arg(self.path()))
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

/// A process that stands by.
pub(crate) struct Cutter(Child);

impl Cutter {
    /// Cuts.
    pub(crate) fn cut(mut self) -> io::Result<()> {
        self.0.stdin.take().expect("it was asked for").write_all(b"\n")?;
        let done = self.0.wait_with_output()?;
        if done.status.success() { Ok(()) } else { Err(complaint(&done)) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Also after a failure, when something may still be in it. What is not mounted is
        // none of our business any more.
        if !is_mounted(&self.path()) {
            return;
        }
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(self.path())) {
            eprintln!("still mounted: {error}");
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*path))
}

/// A command, to its end; what it complained of is the error.
fn run(command: &mut Command) -> io::Result<()> {
    let done = command.stdin(Stdio::null()).output()?;
    if done.status.success() { Ok(()) } else { Err(complaint(&done)) }
}

fn complaint(done: &Output) -> io::Error {
    let told = String::from_utf8_lossy(&done.stderr);
    io::Error::other(told.trim().to_owned())
}
