//! Which page of the key-value cache belongs to whom.

/// Hands out pages; a page may be shared by several sequences (a common prefix).
#[derive(Debug)]
pub(super) struct PagePool {
    /// Owners of each page; 0 is free.
    owners: Vec<u32>,
    free: Vec<u32>,
}

impl PagePool {
    /// `pages` free pages.
    pub(super) fn new(pages: usize) -> PagePool {
        // The lowest page is handed out first, so that a short conversation touches little memory.
        PagePool { owners: vec![0; pages], free: (0..pages as u32).rev().collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// A page with one owner, or `None` when all are in use.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.owners[page as usize] = 1;
        Some(page)
    }

    /// One more owner of `page`.
    pub(super) fn share(&mut self, page: u32) {
        self.owners[page as usize] += 1;
    }

    /// One owner less; the page is free when none is left.
    pub(super) fn release(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free.push(page);
        }
    }

    pub(super) fn is_shared(&self, page: u32) -> bool {
        self.owners[page as usize] > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_pages_are_freed_by_the_last_owner() {
        let mut pool = PagePool::new(2);
        let (a, b) = (pool.allocate(), pool.allocate());
        assert_eq!((a, b, pool.allocate()), (Some(0), Some(1), None));
        pool.share(0);
        assert!(pool.is_shared(0) && !pool.is_shared(1));
        pool.release(0);
        assert_eq!(pool.available(), 0);
        pool.release(0);
        assert_eq!(pool.allocate(), Some(0));
    }
}
