-- Charges one batch: never more than a bucket's limit in any window, and one count however often the batch is sent.
--
-- KEYS[1]    what this batch was answered, kept for as long as it may be sent again
-- KEYS[2..]  buckets
-- ARGV[1]    per bucket: limit u48, window in microseconds u56, wanted u32 (little-endian, packed)
-- ARGV[2]    milliseconds to remember the batch
-- ARGV[3]    absent, or per bundle: wanted u32, three buckets u16 (from 1; 0: none)
-- Answer     { 1 when the batch had been charged before, per bucket: admitted u32, left u48, wait u56;
--              per bundle: admitted u32, of its buckets: left u48 }
--            wait: microseconds until the next request fits; 0 when all that was wanted was admitted
--
-- A bundle is requests that are under the same limits together: one that does not fit all of them spends none of them.
-- Buckets of bundles have no `wanted` of their own.
--
-- A bucket is one string: a head, then a ring of moments.  Admissions are numbered from 1 and counted in groups; a
-- moment is the time of a group's last admission, so a whole group is free again one window after it, and what is not
-- known to be free counts as spent: never over.  A group is 1 up to a limit of 511 (exact), beyond that at most
-- limit/256 (what is held back too long is below 0.4 %).  Cost does not grow with the limit.
local spread = unpack
local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, min, max, rep = math.floor, math.min, math.max, string.rep

local HEAD = '<I6I6I6I7I7I7I7I6I7'    -- spent, freed, lost, front, last, skew, expires, limit, window
local HEAD_SIZE, HEAD_END, RING_START = 59, '58', '59'
local MOMENT = '<I7'
local MOMENT_SIZE = 7
local CHARGE_SIZE = 17
local NOTHING = rep('\0', 17)    -- the answer of a bucket that nothing was wanted of
-- Redis takes its time to turn a Lua number into text, so constant arguments are text already.

local function group_of(limit) return max(1, floor(limit / 256)) end
local function ring_of(limit) return floor(limit / group_of(limit)) + 2 end

-- The moment of a group, out of the bucket's whole ring.
local function moment_in(ring, limit, number)
    return (unpack(MOMENT, ring, ((number - 1) % ring_of(limit)) * MOMENT_SIZE + 1))
end

-- How many groups are free: the newest one between freed and newest that is not younger than `since`.
local function free_until(ring, limit, freed, newest, since)
    while freed < newest do
        local middle = floor((freed + newest + 1) / 2)
        if moment_in(ring, limit, middle) <= since then freed = middle else newest = middle - 1 end
    end
    return freed
end

-- The same admissions in the ring of another limit.  A group whose end was not recorded takes the next moment that was.
-- Groups that the old ring no longer holds are free, unless a lowered limit had made it lose some that were not.
local function convert(ring, spent, freed, lost, last, from, to)
    local old, new = group_of(from), group_of(to)
    local newest = floor(spent / old)
    local oldest = max(floor(lost / old), newest - ring_of(from)) + 1
    local unknown = 0
    if lost > 0 and freed * old <= lost then
        unknown = oldest <= newest and moment_in(ring, from, oldest) or last
    end
    local slots, moments = ring_of(to), {}
    for slot = 1, slots do moments[slot] = rep('\0', MOMENT_SIZE) end
    local first = max(1, floor((spent - to) / new) + 1)
    for number = first, floor(spent / new) do
        local group = math.ceil(number * new / old)
        local at = last
        if group < oldest then at = unknown elseif group <= newest then at = moment_in(ring, from, group) end
        moments[(number - 1) % slots + 1] = pack(MOMENT, at)
    end
    if (first - 1) * new > freed * old then lost = (first - 1) * new end
    return table.concat(moments), first - 1, lost
end

local function write_moments(key, limit, first, count, now)
    local slots = ring_of(limit)
    local slot = (first - 1) % slots
    local here = min(count, slots - slot)
    local moment = pack(MOMENT, now)
    call('SETRANGE', key, HEAD_SIZE + slot * MOMENT_SIZE, rep(moment, here))
    if here < count then call('SETRANGE', key, RING_START, rep(moment, count - here)) end
end

-- How many fit now, and what close() must know.
local function open(key, limit, window, clock)
    local group = group_of(limit)
    local spent, freed, lost, front, last, skew, expires, old_limit, old_window = 0, 0, 0, 0, clock, 0, 0, limit, window
    local head = call('GETRANGE', key, '0', HEAD_END)
    local anew = #head < HEAD_SIZE
    if not anew then spent, freed, lost, front, last, skew, expires, old_limit, old_window = unpack(HEAD, head) end

    -- A clock that went back stands still from the last admission, then runs on from there.
    local now, stored_skew = clock + skew, skew
    if now < last then now, skew = last, last - clock end
    local since = now - window

    if anew or last <= since then
        anew, spent, freed, lost, front = true, 0, 0, 0, 0
    elseif limit ~= old_limit or window ~= old_window then
        local ring = call('GETRANGE', key, RING_START, '-1')
        ring = ring .. rep('\0', ring_of(old_limit) * MOMENT_SIZE - #ring)
        ring, freed, lost = convert(ring, spent, freed, lost, last, old_limit, limit)
        local newest = floor(spent / group)
        freed = free_until(ring, limit, freed, newest, since)
        front = freed < newest and moment_in(ring, limit, freed + 1) or 0
        expires, stored_skew = 0, -1
        call('SET', key, head .. ring)
    elseif front > 0 and front <= since then
        local ring = call('GETRANGE', key, RING_START, '-1')
        local newest = floor(spent / group)
        freed = free_until(ring, limit, freed, newest, since)
        front = freed < newest and moment_in(ring, limit, freed + 1) or 0
    end

    local available = max(0, freed * group + limit - spent)
    return available, now, spent, freed, lost, front, last, skew, stored_skew, expires, anew
end

-- Spends what was admitted; microseconds until the next one fits when some were refused, else 0.
local function close(key, limit, window, admitted, is_refused,
                     now, spent, freed, lost, front, last, skew, stored_skew, expires, anew)
    local group = group_of(limit)
    local first = floor(spent / group) + 1
    spent = spent + admitted
    local ended = floor(spent / group) - first + 1
    if admitted > 0 then
        last = now
        if front == 0 and ended > 0 then front = now end
    end
    if admitted > 0 or skew ~= stored_skew then
        local extend = now + window > expires
        if extend then expires = now + window + floor(window / 4) end
        local head = pack(HEAD, spent, freed, lost, front, last, skew, expires, limit, window)
        if anew then
            call('SET', key, head .. rep(pack(MOMENT, now), ended), 'PX', floor((expires - now) / 1000) + 1)
        else
            call('SETRANGE', key, '0', head)
            if ended > 0 then write_moments(key, limit, first, ended, now) end
            if extend then call('PEXPIRE', key, floor((expires - now) / 1000) + 1) end
        end
    end

    if not is_refused then return 0 end
    local number = math.ceil((spent + 1 - limit) / group)
    local moment = front
    if number ~= freed + 1 then
        local at = HEAD_SIZE + ((number - 1) % ring_of(limit)) * MOMENT_SIZE
        moment = unpack(MOMENT, call('GETRANGE', key, at, at + MOMENT_SIZE - 1))
    end
    return max(1, moment + window - now)
end

local function charge(key, limit, window, wanted, available, ...)
    local admitted = min(wanted, available)
    return pack('<I4I6I7', admitted, available - admitted, close(key, limit, window, admitted, admitted < wanted, ...))
end

-- Puts the bundles' answers behind those of the buckets, whose waits it completes.
local function charge_bundles(bundles, charges, clock, answers)
    local states, taken, refused, waits, opened = {}, {}, {}, {}, {}

    local function settle(i)
        local limit, window = unpack('<I6I7', charges, (i - 1) * CHARGE_SIZE + 1)
        local wait = close(KEYS[i + 1], limit, window, taken[i], refused[i], spread(states[i], 2, 11))
        waits[i] = max(waits[i] or 0, wait)
    end
    local function state_of(i)
        local key = KEYS[i + 1]
        local other = opened[key]
        if other == i then return states[i] end
        if other then settle(other) end    -- its limit is being changed: one bucket under two
        local limit, window = unpack('<I6I7', charges, (i - 1) * CHARGE_SIZE + 1)
        states[i], taken[i], refused[i], opened[key] = { open(key, limit, window, clock) }, 0, false, i
        return states[i]
    end
    local function take(i, wanted, admitted)
        local state = i > 0 and states[i]
        if not state then return 0 end
        state[1], taken[i] = state[1] - admitted, taken[i] + admitted
        if admitted < wanted and state[1] == 0 then refused[i] = true end
        return state[1]
    end

    local at = 1
    while at <= #bundles do
        local wanted, a, b, c
        wanted, a, b, c, at = unpack('<I4I2I2I2', bundles, at)
        local admitted = min(wanted, state_of(a)[1])
        if b > 0 then admitted = min(admitted, state_of(b)[1]) end
        if c > 0 then admitted = min(admitted, state_of(c)[1]) end
        answers[#answers + 1] = pack('<I4I6I6I6', admitted, take(a, wanted, admitted), take(b, wanted, admitted),
                                     take(c, wanted, admitted))
    end
    for _, i in pairs(opened) do settle(i) end
    for i, wait in pairs(waits) do answers[i] = pack('<I4I6I7', 0, 0, wait) end
end

local known = call('GET', KEYS[1])
if known then return { 1, known } end

local time = call('TIME')
local clock = time[1] * 1000000 + time[2]
local answers, charges, at = {}, ARGV[1], 1
for i = 2, #KEYS do
    local limit, window, wanted
    limit, window, wanted, at = unpack('<I6I7I4', charges, at)
    answers[i - 1] = wanted == 0 and NOTHING or charge(KEYS[i], limit, window, wanted, open(KEYS[i], limit, window, clock))
end
if ARGV[3] then charge_bundles(ARGV[3], charges, clock, answers) end
local answer = table.concat(answers)
call('SET', KEYS[1], answer, 'PX', ARGV[2])
return { 0, answer }
