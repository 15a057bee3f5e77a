-- The windows of one key, as `src/limit/window.rs` has them for one process: what came within 100 ms of each other
-- is one slot, which leaves when the last of it may. Times are microseconds of the server's clock.
--
-- Three keys hold them. The hash has the present as it was last seen (t), the requests (r) and tokens (k) that count,
-- the slots that still grow (c, and s for stocks), when all of it was last given time to live (x), each slot by its
-- beginning ("end requests tokens"), and by its name each request that runs ("slot tokens") and each stock
-- ("slot requests tokens"). The slots' beginnings are a sorted set; so are the requests that run, by when their gateway
-- was last heard of. One that was not heard of for SILENCE does not count, but is known until it means nothing.

local SPAN, SLOT, SILENCE = 60000000, 100000, 10000000
-- What is not touched for so long says nothing any more; and how often that is written down.
local KEEP, REFRESH = 70000000, 2000000
local call = redis.call

-- Lua's own way to write a number keeps 14 digits only.
local function text(number)
  return string.format('%d', number)
end

-- A field of the hash. What is read and written is kept until `save`, which does all of it at once.
local function field(key, name)
  local value = key.fields[name]
  if value == nil then
    value = call('HGET', key.windows, name)
    key.fields[name] = value
  end
  return value
end

-- `false` removes it.
local function set(key, name, value)
  key.fields[name], key.changed[name] = value, true
end

local function slot_parts(packed)
  local last, requests, tokens = string.match(packed, '^(%d+) (%d+) (%d+)$')
  return tonumber(last), tonumber(requests), tonumber(tokens)
end

-- Lets go of what came more than a span ago.
local function roll(key)
  local old = call('ZRANGEBYSCORE', key.slots, '-inf', text(key.now - SPAN))
  local packed, gone = call('HMGET', key.windows, unpack(old)), {}
  for index, slot in ipairs(old) do
    local last, requests, tokens = 0, 0, 0
    if packed[index] then
      last, requests, tokens = slot_parts(packed[index])
    end
    if last + SPAN <= key.now then
      key.requests = math.max(key.requests - requests, 0)
      key.tokens = math.max(key.tokens - tokens, 0)
      gone[#gone + 1] = slot
      set(key, slot, false)
    end
  end
  if #gone > 0 then
    call('ZREM', key.slots, unpack(gone))
    key.has_slots = call('EXISTS', key.slots) == 1
  end
end

-- The counters of a key at present, with these fields of its hash read at once. The present never goes back, whatever
-- the server's clock does; but if it was set back by more than is remembered, what is remembered means nothing.
local function open(windows, slots, running, ...)
  local names = {'t', 'r', 'k', 'x', 'c', 's', ...}
  local key = {windows = windows, slots = slots, running = running, fields = {}, changed = {}}
  for index, value in ipairs(call('HMGET', windows, unpack(names))) do
    key.fields[names[index]] = value
  end
  local now, seen = clock(), tonumber(key.fields.t) or 0
  key.is_known = key.fields.t
  if seen > now + SPAN then
    call('DEL', windows, slots, running)
    key.fields, seen = {}, 0
  end
  key.now = math.max(now, seen)
  key.requests, key.tokens = tonumber(key.fields.r) or 0, tonumber(key.fields.k) or 0
  local oldest = call('ZRANGE', slots, 0, 0)[1]
  if not oldest and key.requests + key.tokens > 0 then
    -- The slots were lost, without which the rest would never leave.
    call('DEL', windows)
    key.fields, key.requests, key.tokens = {}, 0, 0
  end
  key.has_slots = oldest
  if oldest and tonumber(oldest) + SPAN <= key.now then
    roll(key)
  end
  return key
end

-- Frees what is known of requests whose gateway was not heard of for longer than anything counts.
local function forget_silent(key)
  local silent = call('ZRANGEBYSCORE', key.running, '-inf', text(key.now - KEEP), 'LIMIT', '0', '1000')
  if #silent > 0 then
    call('ZREM', key.running, unpack(silent))
    for _, name in ipairs(silent) do
      set(key, name, false)
    end
  end
end

-- Keeps what changed, the present included, and sees to it that all of it is forgotten together.
local function save(key)
  local is_new = key.fields.x == nil or not key.fields.x or key.is_fresh
  local is_due = is_new or tonumber(key.fields.x) + REFRESH <= key.now
  if is_due then
    forget_silent(key)
    set(key, 'x', text(key.now))
  end
  set(key, 't', text(key.now))
  set(key, 'r', text(key.requests))
  set(key, 'k', text(key.tokens))
  local written, removed = {}, {}
  for name in pairs(key.changed) do
    if key.fields[name] then
      written[#written + 1], written[#written + 2] = name, key.fields[name]
    else
      removed[#removed + 1] = name
    end
  end
  call('HSET', key.windows, unpack(written))
  if #removed > 0 then
    call('HDEL', key.windows, unpack(removed))
  end
  if is_due then
    local milliseconds = text(KEEP / 1000)
    call('PEXPIRE', key.windows, milliseconds)
    call('PEXPIRE', key.slots, milliseconds)
    call('PEXPIRE', key.running, milliseconds)
  end
  key.changed, key.is_fresh = {}, false
end

-- Counts what comes at `at`, in the slot that `growing` names if it still takes it. Returns the slot.
local function add(key, growing, at, requests, tokens)
  local first = field(key, growing)
  if not (first and tonumber(first) <= at and at <= tonumber(first) + SLOT) then
    first = text(at)
  end
  local packed, last, had_requests, had_tokens = field(key, first), at, 0, 0
  if packed then
    last, had_requests, had_tokens = slot_parts(packed)
  else
    call('ZADD', key.slots, first, first)
    if not key.has_slots then
      -- The set is new, and has no time to live yet.
      key.is_fresh, key.has_slots = true, true
    end
  end
  key.requests, key.tokens = key.requests + requests, key.tokens + tokens
  set(key, growing, first)
  local sums = {math.max(at, last), had_requests + requests, had_tokens + tokens}
  set(key, first, string.format('%d %d %d', unpack(sums)))
  return first
end

-- Takes back what was counted in `slot`, if that is still there.
local function give_back(key, slot, requests, tokens)
  local packed = field(key, slot)
  if not packed then
    return
  end
  local last, has_requests, has_tokens = slot_parts(packed)
  requests, tokens = math.min(requests, has_requests), math.min(tokens, has_tokens)
  key.requests, key.tokens = math.max(key.requests - requests, 0), math.max(key.tokens - tokens, 0)
  set(key, slot, string.format('%d %d %d', last, has_requests - requests, has_tokens - tokens))
end

-- How many requests run, as far as their gateways were heard of lately.
local function count_running(key)
  return call('ZCOUNT', key.running, '(' .. text(key.now - SILENCE), '+inf')
end

-- Puts names among those that run; as such that do not count with `is_uncounted`. Where none may have run before, the
-- set may be new, and have no time to live yet.
local function put_running(key, names, may_be_new, is_uncounted)
  local scored, score = {}, text(is_uncounted and key.now - SILENCE or key.now)
  for _, name in ipairs(names) do
    scored[#scored + 1], scored[#scored + 2] = score, name
  end
  call('ZADD', key.running, unpack(scored))
  key.is_fresh = key.is_fresh or may_be_new
end

-- Each slot's end, requests and tokens, oldest first, to `visit`, until that returns true. All must be saved.
local function each_slot(key, visit)
  local from = 0
  while true do
    local slots = call('ZRANGE', key.slots, from, from + 99)
    if #slots == 0 then
      return
    end
    for _, packed in ipairs(call('HMGET', key.windows, unpack(slots))) do
      if packed and visit(slot_parts(packed)) then
        return
      end
    end
    from = from + 100
  end
end

-- How long until so many requests, or so many tokens, count no longer.
local function wait_for(key, requests, tokens)
  local latest, wait = 0, 0
  each_slot(key, function(last, had_requests, had_tokens)
    latest = math.max(latest, last)
    requests, tokens = requests - had_requests, tokens - had_tokens
    if requests <= 0 and tokens <= 0 then
      wait = latest + SPAN - key.now
      return true
    end
  end)
  return wait
end

-- How long until no requests, and no tokens, count any more. All must be saved.
local function resets(key)
  local of_requests, of_tokens, to = 0, 0, -1
  while of_requests == 0 or of_tokens == 0 do
    local slots = call('ZRANGE', key.slots, to - 15, to)
    if #slots == 0 then
      break
    end
    local packed = call('HMGET', key.windows, unpack(slots))
    for index = #slots, 1, -1 do
      local last, requests, tokens = 0, 0, 0
      if packed[index] then
        last, requests, tokens = slot_parts(packed[index])
      end
      local left = math.max(last + SPAN - key.now, 0)
      if requests > 0 then
        of_requests = math.max(of_requests, left)
      end
      if tokens > 0 then
        of_tokens = math.max(of_tokens, left)
      end
    end
    if #slots < 16 then
      break
    end
    to = to - 16
  end
  return of_requests, of_tokens
end

-- What of a key counts and runs, as every answer states it.
local function standing(key, requests_reset, tokens_reset, running)
  return {text(key.now), text(key.requests), text(requests_reset), text(key.tokens), text(tokens_reset), text(running)}
end
