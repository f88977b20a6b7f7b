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

bool loss_resume_of(const struct loss *loss, unsigned replays, uint64_t *ret_resume_seq)
{
    uint64_t resume_seq = loss->refused_seq;

    if (!loss->is_gone && replays < AUDIT_REPLAYS_MAX)
        return false;
    if (loss->told_seq > loss->next_seq)
        resume_seq = loss->told_seq;
    else if (loss->is_gone && loss->oldest_seq > loss->next_seq)
        resume_seq = loss->oldest_seq;
    if (loss->held_seq > loss->next_seq && (resume_seq <= loss->next_seq || loss->held_seq < resume_seq))
        resume_seq = loss->held_seq;
    if (resume_seq <= loss->next_seq)
        return false;
    *ret_resume_seq = resume_seq;
    return true;
}
