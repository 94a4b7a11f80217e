//! What the system's allocator does with memory that was freed.

use std::hint::black_box;

/// Bytes. Of what was freed at the end of its heap, the allocator then keeps twice as much.
const LARGEST: usize = 4 << 20;

/// Has the allocator keep some memory that was freed, for messages with large payloads to
/// come, rather than fetch each page of it from the kernel anew. What glibc keeps depends
/// on the largest piece that it had from the kernel alone and that was given back, see
/// `M_MMAP_THRESHOLD` in mallopt(3): this is one, of which no page is touched. To other
/// allocators it means nothing.
pub(super) fn keep_what_is_freed() {
    drop(black_box(Vec::<u8>::with_capacity(LARGEST)));
}
