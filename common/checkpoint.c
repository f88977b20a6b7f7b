/* checkpoint.c - Ed25519 over OpenSSL EVP; lines of JSON for the copies kept outside the database. */
#include "common/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#define PUBLIC_KEY_SIZE 32u
#define PATH_SIZE       1024u

struct verifier {
    EVP_PKEY *key;
    char id[KEY_ID_SIZE];
};

struct signer {
    struct verifier verifier;    /* its key is the private one, which can do both */
};

DEFINE_DESTROY(file_close, FILE, fclose)
DEFINE_DESTROY(pkey_destroy, EVP_PKEY, EVP_PKEY_free)
DEFINE_DESTROY(context_destroy, EVP_MD_CTX, EVP_MD_CTX_free)
DEFINE_DESTROY(json_destroy, json_t, json_decref)

static void put_be64(uint8_t *bytes, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(bytes, &value, sizeof value);
}

void checkpoint_leaf_begin(uint8_t leaf[LEAF_HEAD_SIZE], const uint8_t producer[UUID_SIZE], uint64_t epoch, uint64_t seq)
{
    memcpy(leaf + 1, producer, UUID_SIZE);
    put_be64(leaf + 1 + UUID_SIZE, epoch);
    put_be64(leaf + 1 + UUID_SIZE + 8, seq);
}

/* ---- keys */

static enum err take_key(EVP_PKEY *key, const char *path, struct verifier *verifier, char *reterr, size_t reterr_size)
{
    uint8_t raw[PUBLIC_KEY_SIZE], digest[DIGEST_SIZE];
    size_t size = sizeof raw;

    if (key == NULL || EVP_PKEY_get_id(key) != EVP_PKEY_ED25519 || EVP_PKEY_get_raw_public_key(key, raw, &size) != 1) {
        snprintf(reterr, reterr_size, "%s: not an Ed25519 key in PEM; mcpgw audit keygen makes one", path);
        return ERR_MALFORMED;
    }
    digest_sha256(raw, size, digest);
    hex_encode(digest, (KEY_ID_SIZE - 1) / 2, verifier->id);
    verifier->key = key;
    return ERR_OK;
}

static FILE *open_key(const char *path, char *reterr, size_t reterr_size)
{
    FILE *file = fopen(path, "re");

    if (file == NULL)
        snprintf(reterr, reterr_size, "%s: %s; mcpgw audit keygen makes the key", path, strerror(errno));
    return file;
}

enum err signer_load(const char *path, struct signer **ret_signer, char *reterr, size_t reterr_size)
{
    OWNED(file_close) FILE *file = open_key(path, reterr, reterr_size);
    OWNED(signer_destroy) struct signer *signer = calloc(1, sizeof *signer);
    OWNED(pkey_destroy) EVP_PKEY *key = NULL;
    enum err err;

    if (file == NULL)
        return ERR_NOT_FOUND;
    if (signer == NULL)
        return ERR_NO_MEMORY;
    key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    err = take_key(key, path, &signer->verifier, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    key = NULL;
    *ret_signer = signer;
    signer = NULL;
    return ERR_OK;
}

void signer_destroy(struct signer **signer)
{
    if (*signer == NULL)
        return;
    EVP_PKEY_free((*signer)->verifier.key);
    free(*signer);
    *signer = NULL;
}

const struct verifier *signer_verifier(const struct signer *signer)
{
    return &signer->verifier;
}

enum err verifier_load(const char *path, struct verifier **ret_verifier, char *reterr, size_t reterr_size)
{
    OWNED(file_close) FILE *file = open_key(path, reterr, reterr_size);
    OWNED(verifier_destroy) struct verifier *verifier = calloc(1, sizeof *verifier);
    OWNED(pkey_destroy) EVP_PKEY *key = NULL;
    enum err err;

    if (file == NULL)
        return ERR_NOT_FOUND;
    if (verifier == NULL)
        return ERR_NO_MEMORY;
    key = PEM_read_PUBKEY(file, NULL, NULL, NULL);
    err = take_key(key, path, verifier, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    key = NULL;
    *ret_verifier = verifier;
    verifier = NULL;
    return ERR_OK;
}

void verifier_destroy(struct verifier **verifier)
{
    if (*verifier == NULL)
        return;
    EVP_PKEY_free((*verifier)->key);
    free(*verifier);
    *verifier = NULL;
}

const char *verifier_id(const struct verifier *verifier)
{
    return verifier->id;
}

static FILE *create(const char *path, mode_t mode, char *reterr, size_t reterr_size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

    if (fd < 0)
        snprintf(reterr, reterr_size, "%s cannot be made: %s", path, strerror(errno));
    return fd < 0 ? NULL : fdopen(fd, "w");
}

enum err signer_make(const char *path, char *reterr, size_t reterr_size)
{
    OWNED(pkey_destroy) EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    char public_path[PATH_SIZE];
    const int length = snprintf(public_path, sizeof public_path, "%s.pub", path);

    if (key == NULL || length < 0 || (size_t)length >= sizeof public_path)
        return ERR_NO_MEMORY;
    OWNED(file_close) FILE *private_file = create(path, 0600, reterr, reterr_size);
    if (private_file == NULL)
        return errno == EEXIST ? ERR_CONFLICT : ERR_UNAVAILABLE;
    OWNED(file_close) FILE *public_file = create(public_path, 0644, reterr, reterr_size);
    if (public_file == NULL) {
        const int saved = errno;

        unlink(path);
        return saved == EEXIST ? ERR_CONFLICT : ERR_UNAVAILABLE;
    }
    if (PEM_write_PrivateKey(private_file, key, NULL, NULL, 0, NULL, NULL) != 1 || PEM_write_PUBKEY(public_file, key) != 1
        || fflush(private_file) != 0 || fflush(public_file) != 0 || fsync(fileno(private_file)) != 0) {
        snprintf(reterr, reterr_size, "%s cannot be written: %s", path, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    return ERR_OK;
}

/* ---- signatures */

static size_t make_note(const struct checkpoint *checkpoint, char note[CHECKPOINT_NOTE_SIZE])
{
    char producer[UUID_TEXT_SIZE], root[DIGEST_TEXT_SIZE];

    uuid_format(checkpoint->producer, producer);
    base64url_encode(checkpoint->root, DIGEST_SIZE, root);
    return (size_t)snprintf(note, CHECKPOINT_NOTE_SIZE,
                            "mcpgw audit checkpoint 1\n%s\n%" PRIu64 "\n%" PRIu64 "\n%" PRIu64 "\n%s\n%" PRIu64 "\n",
                            producer, checkpoint->epoch, checkpoint->size, checkpoint->next_seq, root,
                            checkpoint->time_us);
}

enum err checkpoint_sign(const struct signer *signer, struct checkpoint *checkpoint)
{
    OWNED(context_destroy) EVP_MD_CTX *context = EVP_MD_CTX_new();
    char note[CHECKPOINT_NOTE_SIZE];
    const size_t length = make_note(checkpoint, note);
    size_t size = SIGNATURE_SIZE;

    if (context == NULL || EVP_DigestSignInit(context, NULL, NULL, NULL, signer->verifier.key) != 1
        || EVP_DigestSign(context, checkpoint->signature, &size, (const uint8_t *)note, length) != 1)
        return ERR_NO_MEMORY;
    memcpy(checkpoint->key_id, signer->verifier.id, sizeof checkpoint->key_id);
    return ERR_OK;
}

bool checkpoint_is_signed(const struct verifier *verifier, const struct checkpoint *checkpoint)
{
    OWNED(context_destroy) EVP_MD_CTX *context = EVP_MD_CTX_new();
    char note[CHECKPOINT_NOTE_SIZE];
    const size_t length = make_note(checkpoint, note);

    return context != NULL && EVP_DigestVerifyInit(context, NULL, NULL, NULL, verifier->key) == 1
        && EVP_DigestVerify(context, checkpoint->signature, SIGNATURE_SIZE, (const uint8_t *)note, length) == 1;
}

/* ---- lines */

size_t checkpoint_format(const struct checkpoint *checkpoint, char line[CHECKPOINT_LINE_SIZE])
{
    char producer[UUID_TEXT_SIZE], root[DIGEST_TEXT_SIZE], signature[SIGNATURE_SIZE * 2];

    uuid_format(checkpoint->producer, producer);
    base64url_encode(checkpoint->root, DIGEST_SIZE, root);
    base64url_encode(checkpoint->signature, SIGNATURE_SIZE, signature);
    return (size_t)snprintf(line, CHECKPOINT_LINE_SIZE,
                            "{\"producer\":\"%s\",\"epoch\":%" PRIu64 ",\"size\":%" PRIu64 ",\"nextSeq\":%" PRIu64
                            ",\"timeUs\":%" PRIu64 ",\"root\":\"%s\",\"keyId\":\"%s\",\"signature\":\"%s\"}",
                            producer, checkpoint->epoch, checkpoint->size, checkpoint->next_seq, checkpoint->time_us, root,
                            checkpoint->key_id, signature);
}

static bool take_number(const json_t *object, const char *name, uint64_t *ret_number)
{
    const json_t *value = json_object_get(object, name);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret_number = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_bytes(const json_t *object, const char *name, uint8_t *bytes, size_t expected)
{
    const char *text = json_string_value(json_object_get(object, name));
    size_t size = 0;

    return text != NULL && base64url_decode(text, strlen(text), bytes, expected, &size) == ERR_OK && size == expected;
}

enum err checkpoint_parse(const char *line, size_t length, struct checkpoint *ret_checkpoint)
{
    OWNED(json_destroy) json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    const char *producer = json_string_value(json_object_get(object, "producer"));
    const char *key_id = json_string_value(json_object_get(object, "keyId"));
    struct checkpoint checkpoint = { 0 };

    if (producer == NULL || !uuid_parse(producer, checkpoint.producer) || key_id == NULL
        || strlen(key_id) >= sizeof checkpoint.key_id || !take_number(object, "epoch", &checkpoint.epoch)
        || !take_number(object, "size", &checkpoint.size) || !take_number(object, "nextSeq", &checkpoint.next_seq)
        || !take_number(object, "timeUs", &checkpoint.time_us)
        || !take_bytes(object, "root", checkpoint.root, DIGEST_SIZE)
        || !take_bytes(object, "signature", checkpoint.signature, SIGNATURE_SIZE))
        return ERR_MALFORMED;
    snprintf(checkpoint.key_id, sizeof checkpoint.key_id, "%s", key_id);
    *ret_checkpoint = checkpoint;
    return ERR_OK;
}
