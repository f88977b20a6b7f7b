/* change.h - what a row of mcpgw.change may be about; the numbers stand in the database: append only. */
#ifndef COMMON_CHANGE_H
#define COMMON_CHANGE_H

enum change_kind {
    CHANGE_KEY = 1,        /* digest and key_id */
    CHANGE_USER = 2,       /* user_id: everything of that user; key_id: mcpgw.account_name() of an account that became or was the user's */
    CHANGE_TENANT = 3,     /* tenant_id */
    CHANGE_SESSION = 4,    /* key_id holds the id of the session, the verdict's session_id: it ended, or is another user's */
    CHANGE_SERVER = 5,     /* server (slug) */
    CHANGE_ALL = 6,        /* a bulk change: forget everything */
    CHANGE_ISSUER = 7,     /* server holds the issuer's name: its key set is another one */
    CHANGE_BOND = 9,       /* key_id holds a name of common/token.h's token_bond(): what it stands for ended */
    CHANGE_NOTICE = 8      /* an event of the trail: no verdict depends on it.  With a digest: a key that had no uses left has some again,
                              so that whoever keeps "none left" forgets that */
};

#endif
