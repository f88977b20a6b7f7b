#include "cli/environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_URL   "http://127.0.0.1:8080"
#define ENV_FILE_SIZE 16384u

enum err file_read(const char *path, char *buffer, size_t size, size_t *ret_size)
{
    FILE *file = fopen(path, "re");
    size_t length;
    int failed;

    if (file == NULL)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_UNAVAILABLE;
    length = fread(buffer, 1, size - 1, file);
    failed = ferror(file);
    fclose(file);
    if (failed != 0)
        return ERR_UNAVAILABLE;
    if (length == size - 1)
        return ERR_TOO_LARGE;
    buffer[length] = '\0';
    *ret_size = length;
    return ERR_OK;
}

static bool take_key(struct cli *cli, const char *text)
{
    size_t length = strcspn(text, " \t\r\n");

    if (length == 0 || length > SECRET_SIZE_MAX)
        return false;
    memcpy(cli->api_key.bytes, text, length);
    cli->api_key.bytes[length] = '\0';
    cli->api_key.size = length;
    return true;
}

static enum err load_key(struct cli *cli, const char *env_file, const char *env_path)
{
    const char *text = getenv("MCPGW_API_KEY"), *path = getenv("MCPGW_API_KEY_FILE");
    char value[SECRET_SIZE_MAX + 2] = "";
    size_t size;
    bool is_taken;

    if (text == NULL && path != NULL && file_read(path, value, sizeof value, &size) != ERR_OK) {
        complain("MCPGW_API_KEY_FILE: %s cannot be read", path);
        return ERR_MALFORMED;
    }
    if (text == NULL && path == NULL && assignment_find(env_file, "MCPGW_API_KEY", value, sizeof value) != ERR_OK) {
        complain("no API key: set MCPGW_API_KEY or MCPGW_API_KEY_FILE, or MCPGW_HOME to a home that `make up` made (%s"
                 " has none)", env_path);
        return ERR_MALFORMED;
    }
    is_taken = take_key(cli, text != NULL ? text : value);
    OPENSSL_cleanse(value, sizeof value);
    if (!is_taken)
        complain("the API key is empty or too long");
    return is_taken ? ERR_OK : ERR_MALFORMED;
}

/* Plain http to anywhere but this host. */
static bool is_in_clear(const char *url)
{
    static const char *const here[] = { "127.", "[::1]" };
    const char *host = url + strlen("http://"), *end = host + strcspn(host, "/?#");

    if (strncmp(url, "http://", strlen("http://")) != 0)
        return false;
    if (memchr(host, '@', (size_t)(end - host)) != NULL)
        return true;
    if (*host != '[' && memchr(host, '.', (size_t)(end - host)) == NULL)    /* a name of a network of one's own, such as compose's edge */
        return false;
    for (size_t i = 0; i < sizeof here / sizeof here[0]; i++) {
        const char *rest = host + strlen(here[i]);

        if (strncmp(host, here[i], strlen(here[i])) == 0 && (i == 0 || *rest == ':' || *rest == '/' || *rest == '\0'))
            return i == 0 && strspn(host, "0123456789.:") < (size_t)(end - host);
    }
    return true;
}

enum err environment_load(struct cli *cli, const char *url)
{
    const char *home = getenv("MCPGW_HOME");
    char path[1024], text[ENV_FILE_SIZE] = "", value[sizeof cli->url] = "";
    size_t size, length;
    enum err err;

    snprintf(path, sizeof path, "%s/env", home != NULL && *home != '\0' ? home : "var");
    err = file_read(path, text, sizeof text, &size);
    if (err != ERR_OK && err != ERR_NOT_FOUND && getenv("MCPGW_API_KEY") == NULL
        && getenv("MCPGW_API_KEY_FILE") == NULL) {
        complain("%s cannot be read: %s", path, strerror(errno));
        return ERR_MALFORMED;
    }
    if (url == NULL)
        url = getenv("MCPGW_URL");
    if (url == NULL)
        url = assignment_find(text, "MCPGW_URL", value, sizeof value) == ERR_OK ? value : DEFAULT_URL;
    length = strlen(url);
    while (length > 0 && url[length - 1] == '/')
        length--;
    if (length >= sizeof cli->url || (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)) {
        complain("the gateway's address must be an http:// or https:// URL: %.100s", url);
        return ERR_MALFORMED;
    }
    memcpy(cli->url, url, length);
    cli->url[length] = '\0';
    if (is_in_clear(cli->url))
        complain("warning: the API key goes to %s unencrypted; use https", cli->url);
    err = load_key(cli, text, path);
    OPENSSL_cleanse(text, sizeof text);
    return err;
}

const char *environment_value(const char *name, char *buffer, size_t size)
{
    const char *value = getenv(name), *home = getenv("MCPGW_HOME");
    char path[1024], text[ENV_FILE_SIZE] = "";
    size_t length;
    bool is_found;

    if (value != NULL && *value != '\0')
        return value;
    snprintf(path, sizeof path, "%s/env", home != NULL && *home != '\0' ? home : "var");
    is_found = file_read(path, text, sizeof text, &length) == ERR_OK && assignment_find(text, name, buffer, size) == ERR_OK;
    OPENSSL_cleanse(text, sizeof text);
    return is_found ? buffer : NULL;
}
