/* identity_keys.c - OpenSSL keys in files, as a JWK set, and what they sign. */
#include "common/identity_keys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/cleanup.h"
#include "common/encode.h"

#define RSA_BITS       2048
#define COORDINATE     32u             /* bytes of a P-256 coordinate, an Ed25519 key */
#define MODULUS_MAX    512u
#define SIGNATURE_MAX  512u
#define NAME_SIZE      128u
#define PATH_SIZE      (512u + NAME_SIZE)

struct key {
    struct identity_key_info info;
    struct timespec written_at;    /* of two made within a second the later one is the newer */
    EVP_PKEY *pkey;
};

struct identity_keys {
    size_t count;
    struct key keys[IDENTITY_KEYS_MAX];
    char document[IDENTITY_SET_SIZE];
};

static const char *const algorithm_texts[IDENTITY_ALGORITHMS] = { "RS256", "ES256", "EdDSA" };

DEFINE_DESTROY(pkey_destroy, EVP_PKEY, EVP_PKEY_free)
DEFINE_DESTROY(dir_destroy, DIR, closedir)
DEFINE_DESTROY(stream_destroy, FILE, fclose)
DEFINE_DESTROY(md_destroy, EVP_MD_CTX, EVP_MD_CTX_free)
DEFINE_DESTROY(ecdsa_destroy, ECDSA_SIG, ECDSA_SIG_free)
DEFINE_DESTROY(bignum_destroy, BIGNUM, BN_free)

const char *identity_algorithm_text(enum identity_algorithm algorithm)
{
    return algorithm_texts[algorithm];
}

enum err identity_algorithm_parse(const char *text, enum identity_algorithm *ret_algorithm)
{
    for (unsigned i = 0; i < IDENTITY_ALGORITHMS; i++) {
        if (strcmp(text, algorithm_texts[i]) == 0) {
            *ret_algorithm = (enum identity_algorithm)i;
            return ERR_OK;
        }
    }
    return ERR_MALFORMED;
}

/* ---- a key as a JWK ------------------------------------------------------------------------------------- */

struct members {
    char text[2 * (MODULUS_MAX * 4 / 3 + 4) + 128];    /* in the order RFC 7638 3.2 asks for, without braces */
};

static bool encode_number(const EVP_PKEY *pkey, const char *name, size_t size, char *text)
{
    OWNED(bignum_destroy) BIGNUM *number = NULL;
    uint8_t bytes[MODULUS_MAX];

    if (EVP_PKEY_get_bn_param(pkey, name, &number) != 1)
        return false;
    if (size == 0)
        size = (size_t)BN_num_bytes(number);
    if (size > sizeof bytes || BN_bn2binpad(number, bytes, (int)size) < 0)
        return false;
    base64url_encode(bytes, size, text);
    return true;
}

/* ERR_MALFORMED: not a key of this algorithm. */
static enum err describe(const EVP_PKEY *pkey, enum identity_algorithm algorithm, struct members *ret_members)
{
    char first[MODULUS_MAX * 4 / 3 + 4], second[MODULUS_MAX * 4 / 3 + 4], group[32] = "";
    uint8_t raw[COORDINATE];
    size_t size = sizeof raw;

    if (algorithm == IDENTITY_RS256 && EVP_PKEY_is_a(pkey, "RSA") && EVP_PKEY_get_bits(pkey) >= RSA_BITS
        && encode_number(pkey, OSSL_PKEY_PARAM_RSA_E, 0, first) && encode_number(pkey, OSSL_PKEY_PARAM_RSA_N, 0, second)) {
        snprintf(ret_members->text, sizeof ret_members->text, "\"e\":\"%s\",\"kty\":\"RSA\",\"n\":\"%s\"", first, second);
        return ERR_OK;
    }
    if (algorithm == IDENTITY_ES256 && EVP_PKEY_is_a(pkey, "EC")
        && EVP_PKEY_get_group_name(pkey, group, sizeof group, NULL) == 1 && strcmp(group, "prime256v1") == 0
        && encode_number(pkey, OSSL_PKEY_PARAM_EC_PUB_X, COORDINATE, first)
        && encode_number(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, COORDINATE, second)) {
        snprintf(ret_members->text, sizeof ret_members->text, "\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"",
                 first, second);
        return ERR_OK;
    }
    if (algorithm == IDENTITY_EDDSA && EVP_PKEY_is_a(pkey, "ED25519")
        && EVP_PKEY_get_raw_public_key(pkey, raw, &size) == 1) {
        base64url_encode(raw, size, first);
        snprintf(ret_members->text, sizeof ret_members->text, "\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"%s\"", first);
        return ERR_OK;
    }
    return ERR_MALFORMED;
}

static void thumbprint(const struct members *members, char ret_kid[IDENTITY_KID_SIZE])
{
    char json[sizeof members->text + 2];
    uint8_t digest[DIGEST_SIZE];
    const int size = snprintf(json, sizeof json, "{%s}", members->text);

    digest_sha256(json, (size_t)size, digest);
    base64url_encode(digest, sizeof digest, ret_kid);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

/* <seconds>-<algorithm>-<kid>.pem; false: another file, which is none of ours. */
static bool parse_name(const char *name, struct identity_key_info *ret_info)
{
    char algorithm[8] = "", rest[8] = "";
    struct identity_key_info info = { 0 };

    if (sscanf(name, "%12" SCNu64 "-%5[A-Za-z0-9]-%43[A-Za-z0-9_-]%7s", &info.made_s, algorithm, info.kid, rest) != 4
        || strcmp(rest, ".pem") != 0 || strlen(info.kid) != IDENTITY_KID_SIZE - 1
        || identity_algorithm_parse(algorithm, &info.algorithm) != ERR_OK)
        return false;
    *ret_info = info;
    return true;
}

static void name_of(const struct identity_key_info *info, char name[NAME_SIZE])
{
    snprintf(name, NAME_SIZE, "%" PRIu64 "-%s-%s.pem", info->made_s, identity_algorithm_text(info->algorithm), info->kid);
}

static enum err read_key(const char *path, struct key *key, char *reterr, size_t reterr_size)
{
    const struct identity_key_info *info = &key->info;
    OWNED(stream_destroy) FILE *file = fopen(path, "re");
    OWNED(pkey_destroy) EVP_PKEY *pkey = NULL;
    struct members members;
    char kid[IDENTITY_KID_SIZE];
    struct stat status;

    if (file == NULL || fstat(fileno(file), &status) != 0) {
        snprintf(reterr, reterr_size, "identity_keys: %s cannot be read: %s", path, strerror(errno));
        return ERR_DENIED;
    }
    if ((status.st_mode & 077) != 0) {
        snprintf(reterr, reterr_size, "identity_keys: %s can be read by others: chmod 600 it", path);
        return ERR_DENIED;
    }
    pkey = PEM_read_PrivateKey(file, NULL, NULL, "");
    if (pkey == NULL || describe(pkey, info->algorithm, &members) != ERR_OK) {
        snprintf(reterr, reterr_size, "identity_keys: %s holds no %s key: remove it", path, identity_algorithm_text(info->algorithm));
        return ERR_MALFORMED;
    }
    thumbprint(&members, kid);
    if (strcmp(kid, info->kid) != 0) {
        snprintf(reterr, reterr_size, "identity_keys: %s holds another key than its name says: remove it", path);
        return ERR_MALFORMED;
    }
    key->written_at = status.st_mtim;
    key->pkey = pkey;
    pkey = NULL;
    return ERR_OK;
}

static int compare_keys(const void *a, const void *b)
{
    const struct key *left = a, *right = b;

    if (left->info.made_s != right->info.made_s)
        return left->info.made_s < right->info.made_s ? -1 : 1;
    if (left->written_at.tv_sec != right->written_at.tv_sec)
        return left->written_at.tv_sec < right->written_at.tv_sec ? -1 : 1;
    if (left->written_at.tv_nsec != right->written_at.tv_nsec)
        return left->written_at.tv_nsec < right->written_at.tv_nsec ? -1 : 1;
    return strcmp(left->info.kid, right->info.kid);
}

static enum err read_directory(const char *directory, struct identity_keys *keys, char *reterr, size_t reterr_size)
{
    OWNED(dir_destroy) DIR *dir = opendir(directory);
    struct identity_key_info info;
    char path[PATH_SIZE];
    enum err err = ERR_OK;

    if (dir == NULL) {
        snprintf(reterr, reterr_size, "identity_keys: %s: %s; make a key: mcpgw identity rotate --keys %s", directory,
                 strerror(errno), directory);
        return ERR_NOT_FOUND;
    }
    for (const struct dirent *entry = readdir(dir); entry != NULL && err == ERR_OK; entry = readdir(dir)) {
        if (!parse_name(entry->d_name, &info))
            continue;
        if (keys->count == IDENTITY_KEYS_MAX) {
            snprintf(reterr, reterr_size, "identity_keys: %s holds more than %u keys: remove the oldest", directory, IDENTITY_KEYS_MAX);
            return ERR_TOO_LARGE;
        }
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        keys->keys[keys->count].info = info;
        err = read_key(path, &keys->keys[keys->count], reterr, reterr_size);
        keys->count += err == ERR_OK;
    }
    return err;
}

static void write_document(struct identity_keys *keys)
{
    size_t used = (size_t)snprintf(keys->document, sizeof keys->document, "{\"keys\":[");
    struct members members;

    for (size_t i = 0; i < keys->count; i++) {
        const struct identity_key_info *info = &keys->keys[i].info;

        if (describe(keys->keys[i].pkey, info->algorithm, &members) != ERR_OK)
            continue;
        used += (size_t)snprintf(keys->document + used, sizeof keys->document - used,
                                 "%s{%s,\"kid\":\"%s\",\"alg\":\"%s\",\"use\":\"sig\"}", i > 0 ? "," : "", members.text, info->kid,
                                 identity_algorithm_text(info->algorithm));
    }
    snprintf(keys->document + used, sizeof keys->document - used, "]}");
}

enum err identity_keys_load(const char *directory, struct identity_keys **ret_keys, char *reterr, size_t reterr_size)
{
    OWNED(identity_keys_destroy) struct identity_keys *keys = calloc(1, sizeof *keys);
    enum err err;

    if (keys == NULL)
        return ERR_NO_MEMORY;
    err = read_directory(directory, keys, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    if (keys->count == 0) {
        snprintf(reterr, reterr_size, "identity_keys: no key in %s; make one: mcpgw identity rotate --keys %s", directory, directory);
        return ERR_NOT_FOUND;
    }
    qsort(keys->keys, keys->count, sizeof keys->keys[0], compare_keys);
    write_document(keys);
    *ret_keys = keys;
    keys = NULL;
    return ERR_OK;
}

void identity_keys_destroy(struct identity_keys **keys)
{
    if (*keys == NULL)
        return;
    for (size_t i = 0; i < (*keys)->count; i++)
        EVP_PKEY_free((*keys)->keys[i].pkey);
    free(*keys);
    *keys = NULL;
}

size_t identity_keys_count(const struct identity_keys *keys)
{
    return keys->count;
}

const struct identity_key_info *identity_keys_at(const struct identity_keys *keys, size_t index)
{
    return &keys->keys[index].info;
}

size_t identity_keys_signer(const struct identity_keys *keys, uint64_t now_s, uint64_t publish_s)
{
    for (size_t i = keys->count; i > 1; i--)
        if (keys->keys[i - 1].info.made_s + publish_s <= now_s)
            return i - 1;
    return 0;
}

const char *identity_keys_document(const struct identity_keys *keys)
{
    return keys->document;
}

/* ---- signing ----------------------------------------------------------------------------------------------- */

/* ECDSA as JOSE wants it: r and s, each of 32 bytes (RFC 7518 3.4). */
static bool flatten(uint8_t *signature, size_t *size)
{
    const uint8_t *at = signature;
    OWNED(ecdsa_destroy) ECDSA_SIG *parsed = d2i_ECDSA_SIG(NULL, &at, (long)*size);

    if (parsed == NULL || BN_bn2binpad(ECDSA_SIG_get0_r(parsed), signature, COORDINATE) < 0
        || BN_bn2binpad(ECDSA_SIG_get0_s(parsed), signature + COORDINATE, COORDINATE) < 0)
        return false;
    *size = 2 * (size_t)COORDINATE;
    return true;
}

enum err identity_keys_sign(const struct identity_keys *keys, size_t index, const char *claims, size_t size,
                            char ret_token[IDENTITY_TOKEN_SIZE])
{
    const struct key *key = &keys->keys[index];
    OWNED(md_destroy) EVP_MD_CTX *context = EVP_MD_CTX_new();
    uint8_t signature[SIGNATURE_MAX];
    size_t signature_size = sizeof signature, used;
    char header[160];
    const int header_size = snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\",\"typ\":\"at+jwt\"}",
                                     identity_algorithm_text(key->info.algorithm), key->info.kid);

    if (size > IDENTITY_CLAIMS_MAX)
        return ERR_TOO_LARGE;
    base64url_encode((const uint8_t *)header, (size_t)header_size, ret_token);
    used = strlen(ret_token);
    ret_token[used++] = '.';
    base64url_encode((const uint8_t *)claims, size, ret_token + used);
    used += strlen(ret_token + used);
    if (context == NULL
        || EVP_DigestSignInit(context, NULL, key->info.algorithm == IDENTITY_EDDSA ? NULL : EVP_sha256(), NULL, key->pkey) != 1
        || EVP_DigestSign(context, signature, &signature_size, (const uint8_t *)ret_token, used) != 1)
        return ERR_NO_MEMORY;
    if (key->info.algorithm == IDENTITY_ES256 && !flatten(signature, &signature_size))
        return ERR_NO_MEMORY;
    if (used + 1 + signature_size * 4 / 3 + 4 > IDENTITY_TOKEN_SIZE)
        return ERR_TOO_LARGE;
    ret_token[used++] = '.';
    base64url_encode(signature, signature_size, ret_token + used);
    return ERR_OK;
}

/* ---- making and removing ------------------------------------------------------------------------------------- */

static EVP_PKEY *generate(enum identity_algorithm algorithm)
{
    switch (algorithm) {
    case IDENTITY_ES256:
        return EVP_EC_gen("P-256");
    case IDENTITY_EDDSA:
        return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    case IDENTITY_RS256:
    case IDENTITY_ALGORITHMS:
        break;
    }
    return EVP_RSA_gen(RSA_BITS);
}

/* A key that root makes is for the service whose directory it is. */
static bool give_to_owner(int fd, const char *directory)
{
    struct stat status;

    if (geteuid() != 0)
        return true;
    return stat(directory, &status) == 0 && fchown(fd, status.st_uid, status.st_gid) == 0;
}

/* Written beside and renamed: an edge never reads half a key. */
static enum err write_key(const char *directory, const struct identity_key_info *info, EVP_PKEY *pkey, char *reterr, size_t reterr_size)
{
    char name[NAME_SIZE], path[PATH_SIZE], new_path[PATH_SIZE + 8];
    FILE *file;
    int fd;
    bool is_whole;

    name_of(info, name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(new_path, sizeof new_path, "%s.new", path);
    fd = open(new_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    file = fd < 0 ? NULL : fdopen(fd, "w");
    is_whole = file != NULL && give_to_owner(fd, directory) && PEM_write_PKCS8PrivateKey(file, pkey, NULL, NULL, 0, NULL, NULL) == 1 && fflush(file) == 0
               && fsync(fd) == 0;
    if (file != NULL)
        is_whole = fclose(file) == 0 && is_whole;
    if (is_whole && rename(new_path, path) == 0)
        return ERR_OK;
    snprintf(reterr, reterr_size, "%s cannot be written: %s", path, strerror(errno));
    (void)!unlink(new_path);
    return ERR_UNAVAILABLE;
}

enum err identity_key_make(const char *directory, enum identity_algorithm algorithm, uint64_t now_s,
                           struct identity_key_info *ret_info, char *reterr, size_t reterr_size)
{
    OWNED(pkey_destroy) EVP_PKEY *pkey = NULL;
    struct identity_key_info info = { .algorithm = algorithm, .made_s = now_s };
    struct members members;
    enum err err;

    if (strlen(directory) > PATH_SIZE - NAME_SIZE - 1 || (mkdir(directory, 0700) != 0 && errno != EEXIST)) {
        snprintf(reterr, reterr_size, "%.200s cannot be made: %s", directory, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    pkey = generate(algorithm);
    if (pkey == NULL || describe(pkey, algorithm, &members) != ERR_OK)
        return ERR_NO_MEMORY;
    thumbprint(&members, info.kid);
    err = write_key(directory, &info, pkey, reterr, reterr_size);
    if (err == ERR_OK)
        *ret_info = info;
    return err;
}

enum err identity_keys_prune(const char *directory, uint64_t now_s, uint64_t publish_s, uint64_t keep_s, size_t *ret_count,
                             char *reterr, size_t reterr_size)
{
    OWNED(identity_keys_destroy) struct identity_keys *keys = NULL;
    enum err err = identity_keys_load(directory, &keys, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    *ret_count = 0;
    for (size_t i = 0; i + 1 < keys->count; i++) {
        char name[NAME_SIZE], path[PATH_SIZE];

        if (keys->keys[i + 1].info.made_s + publish_s + keep_s > now_s)
            continue;    /* its successor has not signed for so long yet */
        name_of(&keys->keys[i].info, name);
        snprintf(path, sizeof path, "%s/%s", directory, name);
        if (unlink(path) != 0) {
            snprintf(reterr, reterr_size, "%s cannot be removed: %s", path, strerror(errno));
            return ERR_UNAVAILABLE;
        }
        *ret_count += 1;
    }
    return ERR_OK;
}
