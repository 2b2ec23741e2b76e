// #use cached
// Where keys and values are: pages of 64 positions. Keys [page, head, pair, position], so that threads next to each
// other read positions next to each other; values [page, head, position, pair].

const PAGE = 64u;

fn key_at(page: u32, head: u32, pair: u32, slot: u32) -> u32 {
    return ((page * KV_HEADS + head) * PAIRS + pair) * PAGE + slot;
}

fn value_at(page: u32, head: u32, slot: u32, pair: u32) -> u32 {
    return ((page * KV_HEADS + head) * PAGE + slot) * PAIRS + pair;
}
