-- The windows of one subject, as `crates/core/src/limit/window.rs` has them for one process: what came within 100 ms of each
-- other is one slot, which leaves when the last of it may.
--
-- Three keys hold them. The hash has the present as it was last seen (t), the requests (r) and tokens (k) that count,
-- the slots that still grow (c, and s for stocks), when all of it was last given time to live (x), each slot by its
-- beginning ("end requests tokens"), and by its name each request that runs ("slot tokens") and each stock
-- ("slot requests tokens"). The slots' beginnings are a sorted set; so are the requests that run, by when their gateway
-- was last heard of. One that was not heard of for SILENCE does not count, but is known until it means nothing: for as long
-- as its gateway may come back, if it has reserved something of a quota.

local SPAN, SLOT, SILENCE = 60000000, 100000, 10000000
-- What is not touched for so long says nothing any more; and how often that is written down.
local KEEP, REFRESH = 70000000, 2000000
-- What a request of a silent gateway has reserved of quotas is given back after so long.
local COMES_BACK = 300000000

local function slot_parts(packed)
  local last, requests, tokens = string.match(packed, '^(%d+) (%d+) (%d+)$')
  return tonumber(last), tonumber(requests), tonumber(tokens)
end

-- Lets go of what came more than a span ago.
local function roll(key)
  local old = call('ZRANGEBYSCORE', key.slots, '-inf', text(key.now - SPAN))
  local packed, gone = call('HMGET', key.windows.at, unpack(old)), {}
  for index, slot in ipairs(old) do
    local last, requests, tokens = 0, 0, 0
    if packed[index] then
      last, requests, tokens = slot_parts(packed[index])
    end
    if last + SPAN <= key.now then
      key.requests = math.max(key.requests - requests, 0)
      key.tokens = math.max(key.tokens - tokens, 0)
      gone[#gone + 1] = slot
      set(key.windows, slot, false)
    end
  end
  if #gone > 0 then
    call('ZREM', key.slots, unpack(gone))
    key.has_slots = call('EXISTS', key.slots) == 1
  end
end

-- The counters of a subject at present, with these fields of its hash read at once. The present never goes back, whatever
-- the server's clock does; but if it was set back by more than is remembered, what is remembered means nothing.
local function open(index, ...)
  local first = index * 4 - 3
  local key = {windows = hash_at(KEYS[first]), slots = KEYS[first + 1], running = KEYS[first + 2]}
  key.quotas, key.current = hash_at(KEYS[first + 3]), {}
  local windows = key.windows
  read(windows, {'t', 'r', 'k', 'x', 'c', 's', ...})
  local seen = tonumber(windows.fields.t) or 0
  key.is_known = windows.fields.t
  if seen > present + SPAN then
    call('DEL', windows.at, key.slots, key.running)
    windows.fields, seen = {}, 0
  end
  key.now = math.max(present, seen)
  key.requests, key.tokens = tonumber(windows.fields.r) or 0, tonumber(windows.fields.k) or 0
  local oldest = call('ZRANGE', key.slots, 0, 0)[1]
  if not oldest and key.requests + key.tokens > 0 then
    -- The slots were lost, without which the rest would never leave.
    call('DEL', windows.at)
    windows.fields, key.requests, key.tokens = {}, 0, 0
  end
  key.has_slots = oldest
  if oldest and tonumber(oldest) + SPAN <= key.now then
    roll(key)
  end
  return key
end

-- Frees what is known of requests whose gateway was not heard of for longer than anything counts.
local function forget_silent(key, has_quotas)
  local silence = has_quotas and COMES_BACK or KEEP
  local silent = call('ZRANGEBYSCORE', key.running, '-inf', text(key.now - silence), 'LIMIT', '0', '1000')
  if #silent == 0 then
    return
  end
  call('ZREM', key.running, unpack(silent))
  for _, name in ipairs(silent) do
    set(key.windows, name, false)
    if has_quotas then
      release(key, name)
    end
  end
end

-- Gives all that is kept of a subject another while. Where something was reserved of quotas, who reserved it is known for as
-- long as they are.
local function refresh(key)
  local kept = call('PTTL', key.quotas.at)
  forget_silent(key, kept > 0)
  set(key.windows, 'x', text(key.now))
  return kept
end

-- Keeps what changed, the present included, and sees to it that all of it is forgotten together.
local function save(key)
  local windows = key.windows
  local is_new = windows.fields.x == nil or not windows.fields.x or key.is_fresh
  local is_due = is_new or tonumber(windows.fields.x) + REFRESH <= key.now
  save_quotas(key)
  local quotas_kept = is_due and refresh(key)
  set(windows, 't', text(key.now))
  set(windows, 'r', text(key.requests))
  set(windows, 'k', text(key.tokens))
  write(windows)
  if is_due then
    save_quotas(key)
    local milliseconds = KEEP / 1000
    call('PEXPIRE', windows.at, text(milliseconds))
    call('PEXPIRE', key.slots, text(milliseconds))
    call('PEXPIRE', key.running, text(math.max(milliseconds, quotas_kept)))
  end
  key.is_fresh = false
end

-- Counts what comes at `at`, in the slot that `growing` names if it still takes it. Returns the slot.
local function add(key, growing, at, requests, tokens)
  local first = field(key.windows, growing)
  if not (first and tonumber(first) <= at and at <= tonumber(first) + SLOT) then
    first = text(at)
  end
  local packed, last, had_requests, had_tokens = field(key.windows, first), at, 0, 0
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
  set(key.windows, growing, first)
  local sums = {math.max(at, last), had_requests + requests, had_tokens + tokens}
  set(key.windows, first, string.format('%d %d %d', unpack(sums)))
  return first
end

-- Takes back what was counted in `slot`, if that is still there.
local function give_back(key, slot, requests, tokens)
  local packed = field(key.windows, slot)
  if not packed then
    return
  end
  local last, has_requests, has_tokens = slot_parts(packed)
  requests, tokens = math.min(requests, has_requests), math.min(tokens, has_tokens)
  key.requests, key.tokens = math.max(key.requests - requests, 0), math.max(key.tokens - tokens, 0)
  set(key.windows, slot, string.format('%d %d %d', last, has_requests - requests, has_tokens - tokens))
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
    for _, packed in ipairs(call('HMGET', key.windows.at, unpack(slots))) do
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
    local packed = call('HMGET', key.windows.at, unpack(slots))
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

-- What of a subject counts and runs, as every answer states it.
local function standing(key, requests_reset, tokens_reset, running)
  return {key.now, key.requests, requests_reset, key.tokens, tokens_reset, running}
end
