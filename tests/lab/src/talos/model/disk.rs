//! The system disk of a node: two systems, of which one boots.

use super::image::Image;

/// The META key that an installer writes: the system that was the default before (Talos: meta.Upgrade). The new system
/// removes it when it runs and is ready.
pub const UPGRADE_MARKER: u8 = 6;

const LABELS: [&str; 2] = ["A", "B"];

/// Two places for systems.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    slots: [Option<Image>; 2],
    /// Which one boots next.
    default: usize,
    /// What runs. It is in memory: its place on the disk may have another by now.
    running: Image,
}

impl Disk {
    /// A disk with one system, which runs.
    pub(crate) fn new(image: Image) -> Self {
        Self { slots: [Some(image.clone()), None], default: 0, running: image }
    }

    pub(crate) fn running(&self) -> &Image {
        &self.running
    }

    /// The systems that are there, the one that boots next first.
    pub(crate) fn systems(&self) -> impl Iterator<Item = &Image> {
        [self.default, 1 - self.default].into_iter().filter_map(|slot| self.slots[slot].as_ref())
    }

    pub(crate) fn is_installed(&self) -> bool {
        self.slots[self.default].is_some()
    }

    /// Writes a system to the place that does not boot by default, and makes it the default. Returns the label of the
    /// one before.
    pub(crate) fn write(&mut self, image: Image) -> &'static str {
        let before = self.default;
        self.default = 1 - before;
        self.slots[self.default] = Some(image);
        LABELS[before]
    }

    /// An installer that was interrupted leaves nothing usable where it wrote.
    pub(crate) fn spoil(&mut self) {
        self.slots[1 - self.default] = None;
    }

    /// Makes the other system the default; false if there is none.
    pub(crate) fn flip(&mut self) -> bool {
        let other = 1 - self.default;
        let is_there = self.slots[other].is_some();
        if is_there {
            self.default = other;
        }
        is_there
    }

    /// Starts the default. Without one the machine boots from its installation medium, which has what ran.
    pub(crate) fn boot(&mut self) {
        if let Some(image) = &self.slots[self.default] {
            self.running = image.clone();
        }
    }

    /// Writes what runs to a disk that has nothing.
    pub(crate) fn install(&mut self) {
        if !self.is_installed() {
            *self = Self::new(self.running.clone());
        }
    }

    pub(crate) fn wipe(&mut self) {
        self.slots = [None, None];
        self.default = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Line;
    use super::*;

    fn image(name: &str) -> Image {
        Image::new(name, Line::V1_13)
    }

    fn names(disk: &Disk) -> Vec<&str> {
        disk.systems().map(|image| image.reference.as_str()).collect()
    }

    #[test]
    fn one_upgrade_keeps_what_ran_and_two_without_a_reboot_lose_it() {
        let mut disk = Disk::new(image("old"));
        assert!(!disk.clone().flip(), "there is nothing to go back to yet");
        assert_eq!(disk.write(image("new")), "A");
        assert_eq!((names(&disk), disk.running().reference.as_str()), (vec!["new", "old"], "old"));
        let mut back = disk.clone();
        back.boot();
        assert!(back.flip());
        back.boot();
        assert_eq!(back.running().reference, "old");
        assert_eq!(disk.write(image("newer")), "B");
        assert_eq!(names(&disk), ["newer", "new"]);
    }
}
