/* test_checkpoint.c - the Merkle tree against RFC 6962's own vectors and a plain recursion; signatures and their lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/checkpoint.h"
#include "common/merkle.h"

#define LEAVES_MAX 70u

static uint8_t leaves[LEAVES_MAX][DIGEST_SIZE];
static char directory[] = "/tmp/mcpgw-checkpoint-XXXXXX";

static void leaf_of(const char *hex, uint8_t ret_leaf[DIGEST_SIZE])
{
    uint8_t content[64];
    size_t size = 0;

    assert_int_equal(hex_decode(hex, strlen(hex), content + 1, sizeof content - 1, &size), ERR_OK);
    merkle_leaf(content, size + 1, ret_leaf);
}

/* RFC 6962 2.1, as it is written. */
static void root_of(const uint8_t (*list)[DIGEST_SIZE], size_t count, uint8_t ret_root[DIGEST_SIZE])
{
    uint8_t node[1 + 2 * DIGEST_SIZE] = { 1 };
    size_t half = 1;

    if (count == 1) {
        memcpy(ret_root, list[0], DIGEST_SIZE);
        return;
    }
    while (half * 2 < count)
        half *= 2;
    root_of(list, half, node + 1);
    root_of(list + half, count - half, node + 1 + DIGEST_SIZE);
    digest_sha256(node, sizeof node, ret_root);
}

static size_t make_proof(uint64_t index, uint64_t size, uint8_t proof[MERKLE_PROOF_MAX][DIGEST_SIZE])
{
    struct merkle_range ranges[MERKLE_PROOF_MAX];
    const size_t count = merkle_proof_ranges(index, size, ranges);

    for (size_t i = 0; i < count; i++)
        root_of((const uint8_t (*)[DIGEST_SIZE])leaves + ranges[i].first, ranges[i].end - ranges[i].first, proof[i]);
    return count;
}

static int set_up(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < LEAVES_MAX; i++)
        digest_sha256(&i, sizeof i, leaves[i]);
    return mkdtemp(directory) == NULL;
}

static int tear_down(void **state)
{
    char command[100];
    (void)state;

    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void a_proof_that_was_changed_proves_nothing(void **state)
{
    uint8_t proof[MERKLE_PROOF_MAX][DIGEST_SIZE], root[DIGEST_SIZE];
    (void)state;

    for (uint64_t size = 2; size < 20; size++) {
        root_of((const uint8_t (*)[DIGEST_SIZE])leaves, size, root);
        const size_t count = make_proof(1, size, proof);
        const uint8_t (*hashes)[DIGEST_SIZE] = (const uint8_t (*)[DIGEST_SIZE])proof;

        assert_true(merkle_proves(leaves[1], 1, size, hashes, count, root));
        assert_false(merkle_proves(leaves[0], 1, size, hashes, count, root));
        assert_false(merkle_proves(leaves[1], 0, size, hashes, count, root));
        assert_false(merkle_proves(leaves[1], size, size, hashes, count, root));
        assert_false(merkle_proves(leaves[1], 1, size, hashes, count - 1, root));
        assert_false(merkle_proves(leaves[1], 1, size, hashes, count + 1, root));
        proof[count - 1][7] ^= 1;
        assert_false(merkle_proves(leaves[1], 1, size, hashes, count, root));
    }
    assert_false(merkle_proves(leaves[0], 0, 0, NULL, 0, root));
}

static void peaks_that_do_not_fit_their_size_are_refused(void **state)
{
    struct merkle tree;
    uint8_t bytes[3 * DIGEST_SIZE] = { 0 };
    (void)state;

    assert_int_equal(merkle_load(&tree, 5, bytes, sizeof bytes), ERR_MALFORMED);
    assert_int_equal(merkle_load(&tree, UINT64_MAX, bytes, sizeof bytes), ERR_MALFORMED);
    assert_int_equal(merkle_load(&tree, 7, bytes, sizeof bytes), ERR_OK);
    assert_int_equal(merkle_load(&tree, 0, bytes, 0), ERR_OK);
}

static void a_checkpoint_that_was_changed_or_comes_from_another_key_is_found(void **state)
{
    struct checkpoint checkpoint = { .epoch = 3, .size = 7, .next_seq = 9, .time_us = 1700000000000000 }, other;
    struct signer *signer = NULL, *stranger = NULL;
    char path[200], why[300];
    (void)state;

    snprintf(path, sizeof path, "%s/a", directory);
    assert_int_equal(signer_make(path, why, sizeof why), ERR_OK);
    assert_int_equal(signer_make(path, why, sizeof why), ERR_CONFLICT);
    assert_int_equal(signer_load(path, &signer, why, sizeof why), ERR_OK);
    snprintf(path, sizeof path, "%s/b", directory);
    assert_int_equal(signer_make(path, why, sizeof why), ERR_OK);
    assert_int_equal(signer_load(path, &stranger, why, sizeof why), ERR_OK);
    assert_int_equal(checkpoint_sign(signer, &checkpoint), ERR_OK);
    assert_true(checkpoint_is_signed(signer_verifier(signer), &checkpoint));
    assert_false(checkpoint_is_signed(signer_verifier(stranger), &checkpoint));
    for (unsigned field = 0; field < 6; field++) {
        other = checkpoint;
        other.producer[0] ^= field == 0;
        other.epoch += field == 1;
        other.size += field == 2;
        other.next_seq += field == 3;
        other.time_us += field == 4;
        other.root[31] ^= field == 5;
        assert_false(checkpoint_is_signed(signer_verifier(signer), &other));
    }
    signer_destroy(&signer);
    signer_destroy(&stranger);
}

static void what_is_no_key_or_no_line_is_refused(void **state)
{
    struct checkpoint checkpoint;
    struct verifier *verifier = NULL;
    struct signer *signer = NULL;
    char why[300];
    static const char *const lines[] = { "", "{}", "[]", "{\"producer\":1}", "nonsense",
        "{\"producer\":\"00000000-0000-7000-8000-000000000001\",\"epoch\":-1,\"size\":1,\"nextSeq\":1,\"timeUs\":1,"
        "\"root\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"keyId\":\"x\",\"signature\":\"\"}" };
    (void)state;

    assert_int_equal(verifier_load("/nonexistent", &verifier, why, sizeof why), ERR_NOT_FOUND);
    assert_int_equal(verifier_load("/etc/passwd", &verifier, why, sizeof why), ERR_MALFORMED);
    assert_int_equal(signer_load("/etc/passwd", &signer, why, sizeof why), ERR_MALFORMED);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        assert_int_equal(checkpoint_parse(lines[i], strlen(lines[i]), &checkpoint), ERR_MALFORMED);
}

static void roots_are_those_of_the_rfc(void **state)
{
    /* the vectors of the certificate-transparency reference tests */
    static const char *const contents[] = { "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                            "606162636465666768696a6b6c6d6e6f" };
    static const char expected[] = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328";
    struct merkle tree = { 0 };
    uint8_t root[DIGEST_SIZE], leaf[DIGEST_SIZE];
    char text[2 * DIGEST_SIZE + 1];
    (void)state;

    merkle_root(&tree, root);
    hex_encode(root, sizeof root, text);
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (size_t i = 0; i < 8; i++) {
        leaf_of(contents[i], leaf);
        merkle_add(&tree, leaf);
    }
    merkle_root(&tree, root);
    hex_encode(root, sizeof root, text);
    assert_string_equal(text, expected);
}

static void every_size_gives_the_root_of_the_recursion_and_proves_each_leaf(void **state)
{
    struct merkle tree = { 0 }, again;
    uint8_t proof[MERKLE_PROOF_MAX][DIGEST_SIZE], root[DIGEST_SIZE], plain[DIGEST_SIZE];
    (void)state;

    for (uint64_t size = 1; size <= LEAVES_MAX; size++) {
        merkle_add(&tree, leaves[size - 1]);
        merkle_root(&tree, root);
        root_of((const uint8_t (*)[DIGEST_SIZE])leaves, size, plain);
        assert_memory_equal(root, plain, DIGEST_SIZE);
        assert_int_equal(merkle_load(&again, size, (const uint8_t *)tree.peaks, merkle_peaks(size) * DIGEST_SIZE), ERR_OK);
        tree = again;
        for (uint64_t index = 0; index < size; index++) {
            const size_t count = make_proof(index, size, proof);

            assert_true(merkle_proves(leaves[index], index, size, (const uint8_t (*)[DIGEST_SIZE])proof, count, root));
        }
    }
}

static void a_line_says_all_of_a_checkpoint(void **state)
{
    struct checkpoint checkpoint = { .epoch = 3, .size = 7, .next_seq = 9, .time_us = 1700000000000000 }, read;
    struct signer *signer = NULL;
    struct verifier *verifier = NULL;
    char path[200], line[CHECKPOINT_LINE_SIZE], why[300];
    struct stat status;
    (void)state;

    snprintf(path, sizeof path, "%s/c", directory);
    assert_int_equal(signer_make(path, why, sizeof why), ERR_OK);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(signer_load(path, &signer, why, sizeof why), ERR_OK);
    snprintf(path, sizeof path, "%s/c.pub", directory);
    assert_int_equal(verifier_load(path, &verifier, why, sizeof why), ERR_OK);
    uuid7_make(checkpoint.producer);
    assert_int_equal(checkpoint_sign(signer, &checkpoint), ERR_OK);
    assert_string_equal(checkpoint.key_id, verifier_id(verifier));
    const size_t length = checkpoint_format(&checkpoint, line);
    assert_int_equal(checkpoint_parse(line, length, &read), ERR_OK);
    assert_memory_equal(&read, &checkpoint, sizeof read);
    assert_true(checkpoint_is_signed(verifier, &read));
    signer_destroy(&signer);
    verifier_destroy(&verifier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_proof_that_was_changed_proves_nothing),
        cmocka_unit_test(peaks_that_do_not_fit_their_size_are_refused),
        cmocka_unit_test(a_checkpoint_that_was_changed_or_comes_from_another_key_is_found),
        cmocka_unit_test(what_is_no_key_or_no_line_is_refused),
        cmocka_unit_test(roots_are_those_of_the_rfc),
        cmocka_unit_test(every_size_gives_the_root_of_the_recursion_and_proves_each_leaf),
        cmocka_unit_test(a_line_says_all_of_a_checkpoint),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
