// The official MCP SDK client against one URL with an API key: initialize, list and call tools, and print what came as JSON.
// node client.mjs URL KEY
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, key] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { "x-api-key": key } } });
const client = new Client({ name: "mcpgw-e2e", version: "1.0.0" });
try {
  await client.connect(transport);
  const { tools } = await client.listTools();
  const echo = await client.callTool({ name: "echo", arguments: { message: "through the gateway" } });
  const progress = [];
  const long = await client.callTool(
    { name: "trigger-long-running-operation", arguments: { duration: 1, steps: 4 } }, undefined,
    { onprogress: (p) => progress.push(p.progress) });
  console.log(JSON.stringify({
    server: client.getServerVersion()?.name, session: transport.sessionId ?? null, tools: tools.map((t) => t.name),
    echo: echo.content[0].text, long: long.content[0].text, progress,
  }));
  await transport.terminateSession();
  await client.close();
} catch (error) {
  console.log(JSON.stringify({ error: error.message, code: error.code ?? null }));
  process.exitCode = 1;
}
