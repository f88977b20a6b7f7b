/* path_list.c - prefixes that end where a segment ends. */
#include "services/edge/path_list.h"

#include <string.h>

static bool is_below(const char *path, size_t path_length, const char *root, size_t root_length)
{
    while (root_length > 1 && root[root_length - 1] == '/')
        root_length--;
    if (path_length < root_length || memcmp(path, root, root_length) != 0)
        return false;
    return path_length == root_length || path[root_length] == '/';
}

/* The next entry; its length is 0 behind the last. */
static const char *next_entry(const char *list, size_t *ret_length)
{
    list += strspn(list, ", ");
    *ret_length = strcspn(list, ", ");
    return list;
}

bool path_list_has(const char *list, const char *path)
{
    const size_t path_length = strlen(path);
    size_t length;

    for (list = next_entry(list, &length); length > 0; list = next_entry(list + length, &length))
        if (is_below(path, path_length, list, length))
            return true;
    return false;
}

enum err path_list_check(const char *list, const char *const *roots, const char **reterr_entry, size_t *reterr_length)
{
    size_t length;

    for (list = next_entry(list, &length); length > 0; list = next_entry(list + length, &length)) {
        bool is_known = false;

        for (const char *const *root = roots; *root != NULL; root++)
            is_known = is_known || is_below(list, length, *root, strlen(*root));
        if (!is_known) {
            *reterr_entry = list;
            *reterr_length = length;
            return ERR_UNPROCESSABLE;
        }
    }
    return ERR_OK;
}
