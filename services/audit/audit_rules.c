#include "services/audit/audit_rules.h"

enum block_place block_place_of(uint64_t next_seq, uint64_t first_seq, uint64_t count)
{
    if (count == 0 || first_seq == 0 || first_seq > INT64_MAX || count > INT64_MAX - first_seq)
        return BLOCK_MALFORMED;
    if (first_seq + count <= next_seq)
        return BLOCK_DUPLICATE;
    if (first_seq < next_seq)
        return BLOCK_MALFORMED;
    return first_seq == next_seq ? BLOCK_NEXT : BLOCK_GAP;
}

bool batch_is_full(size_t events, size_t bytes)
{
    return events >= AUDIT_BATCH_EVENTS || bytes >= AUDIT_BATCH_BYTES;
}

enum tail tail_of(uint64_t taken_seq, uint64_t committed_seq, uint64_t told_seq)
{
    if (told_seq < committed_seq)
        return TAIL_REUSED;
    return told_seq > taken_seq ? TAIL_MISSING : TAIL_LEVEL;
}

bool loss_resume_of(uint64_t next_seq, uint64_t oldest_seq, uint64_t held_seq, bool is_gone, unsigned replays,
                    uint64_t *ret_resume_seq)
{
    if (!is_gone && replays < AUDIT_REPLAYS_MAX)
        return false;
    if (is_gone && oldest_seq > next_seq) {
        *ret_resume_seq = held_seq > next_seq && held_seq < oldest_seq ? held_seq : oldest_seq;
        return true;
    }
    if (held_seq > next_seq) {
        *ret_resume_seq = held_seq;
        return true;
    }
    return false;
}
