"""Every hot query finds its rows by an index, whatever the table's size: what Postgres would do with the statement as it is sent."""
import pathlib

import pytest

from conftest import program

# a part of the statement's text: (values of its parameters, the index it must use)
HOT = {
    "FROM mcpgw.apikey x WHERE x.id = $1": (["k1"], "apikey_pkey"),
    "FROM mcpgw.apikey x WHERE x.key = coalesce(": (["d1"], "apikey_key_idx"),
    "FROM mcpgw.apikey x WHERE (x.": (["", "0", "50", None, None, None, None], "mcpgw_apikey_createdAt_idx"),
    'FROM mcpgw.apikey x WHERE x."referenceId" = $8': (["", "0", "50", None, None, None, None, "user7", "false", None], "apikey_referenceId_idx"),
    "FROM mcpgw.request WHERE user_id = $1": (["u", "r"], "request_pkey"),
}


@pytest.fixture
def filled(database):
    database.sql("SET session_replication_role = replica")
    database.sql('INSERT INTO public.apikey (id, "configId", "referenceId", key, enabled, "createdAt", "updatedAt")'
                 " SELECT 'k' || i, 'default', 'user' || i %% 5000, 'd' || i, true, now() - i * interval '1 second', now() FROM generate_series(1, 20000) i")
    database.sql("INSERT INTO mcpgw.request SELECT 'r' || i, 'u', 1, 'f', 'a', 'o', now() FROM generate_series(1, 20000) i")
    database.sql("RESET session_replication_role")
    database.sql("ANALYZE")
    return database


def test_every_hot_query_uses_its_index(filled):
    # as they stand in the program: pg_stat_statements hides the constants
    sent = [text.decode() for text in pathlib.Path(program("mcpgw-keys")).read_bytes().split(b"\0") if text.startswith(b"SELECT ") and text.isascii()]
    for part, (values, index) in HOT.items():
        query = next((query for query in sent if part in query), None)
        assert query is not None, f"no such statement: {part}"
        with filled.server.connect(filled.name) as connection:
            connection.execute("PREPARE hot AS " + query)
            given = ", ".join("NULL" if value is None else "'" + value + "'" for value in values)
            plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN EXECUTE hot ({given})"))
        assert index in plan and "Seq Scan on apikey" not in plan and "Seq Scan on request" not in plan, (part, plan)
