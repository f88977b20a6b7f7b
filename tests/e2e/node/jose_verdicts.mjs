// node jose_verdicts.mjs: a key set on the first line, then "1 token" or "0 token" a line, as npm `jose` judges each.
import { compactVerify, createLocalJWKSet, exportJWK, generateKeyPair, SignJWT } from "jose";

const ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const MUTANTS = 40;
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";

const below = (n) => Math.floor(Math.random() * n);

function mutate(token) {
    const at = below(token.length), letter = LETTERS[below(LETTERS.length)];
    return [token.slice(0, at) + letter + token.slice(at + 1), token.slice(0, at) + token.slice(at + 1),
            token.slice(0, at) + letter + token.slice(at)][below(3)];
}

const keys = [], tokens = [];
for (const alg of ALGORITHMS) {
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
    keys.push({ ...(await exportJWK(publicKey)), kid: alg, alg, use: "sig" });
    for (let i = 0; i < 2; i++) {
        tokens.push(await new SignJWT({ n: below(1e6), scope: "read", aud: ["a", "b"] })
            .setProtectedHeader({ alg, kid: alg, typ: "at+jwt" }).setIssuer("i").setExpirationTime("1h").sign(privateKey));
    }
}
const set = createLocalJWKSet({ keys });
console.log(JSON.stringify({ keys }));
for (const token of tokens) {
    for (let i = 0; i <= MUTANTS; i++) {
        const changed = i === 0 ? token : mutate(token);
        const verdict = await compactVerify(changed, set).then(() => "1", () => "0");
        console.log(`${verdict} ${changed}`);
    }
}
