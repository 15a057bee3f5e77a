-- The windows of one key, as `src/limit/window.rs` has them for one process: what came within 100 ms of each other
-- is one slot, which leaves when the last of it may. Times are microseconds of the server's clock.
--
-- Three keys hold them. The hash has the present as it was last seen (t), the requests (r) and tokens (k) that count,
-- the slots that still grow (c, and s for stocks), each slot by its beginning ("end requests tokens"), each request
-- that runs by its name ("slot tokens"), each stock ("slot requests tokens"). The slots' beginnings are a sorted set;
-- so are the requests that run, by when their gateway was last heard of.

local SPAN, SLOT, SILENCE = 60000000, 100000, 10000000
-- What is not touched for so long (milliseconds) says nothing any more.
local KEEP, KEEP_RUNNING = '65000', '11000'
local call = redis.call

-- Lua's own way to write a number keeps 14 digits only.
local function text(number)
  return string.format('%.0f', number)
end

local function slot_parts(packed)
  local last, requests, tokens = string.match(packed, '^(%d+) (%d+) (%d+)$')
  return tonumber(last), tonumber(requests), tonumber(tokens)
end

-- The counters of a key at present. The present never goes back, whatever the server's clock does.
local function open(windows, slots, running)
  local known = call('HMGET', windows, 't', 'r', 'k')
  local key = {windows = windows, slots = slots, running = running}
  key.now = math.max(clock(), tonumber(known[1]) or 0)
  key.is_known, key.is_empty = known[1], call('ZCARD', slots) == 0
  key.requests, key.tokens = tonumber(known[2]) or 0, tonumber(known[3]) or 0
  if key.is_empty then
    -- Or the slots were lost, without which the sums would stay for ever.
    key.requests, key.tokens = 0, 0
  end
  return key
end

-- Keeps what changed, the present included. All of it is forgotten together.
local function save(key)
  call('HSET', key.windows, 't', text(key.now), 'r', text(key.requests), 'k', text(key.tokens))
  call('PEXPIRE', key.windows, KEEP)
  call('PEXPIRE', key.slots, KEEP)
end

-- Lets go of what came more than a span ago.
local function roll(key)
  local old = call('ZRANGEBYSCORE', key.slots, '-inf', text(key.now - SPAN))
  if #old == 0 then
    return
  end
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
    end
  end
  if #gone > 0 then
    call('ZREM', key.slots, unpack(gone))
    call('HDEL', key.windows, unpack(gone))
    save(key)
  end
end

-- Counts what comes at `at`, in the slot that `growing` names if it still takes it. Returns the slot.
local function add(key, growing, at, requests, tokens)
  local first = not key.is_empty and call('HGET', key.windows, growing)
  if not (first and tonumber(first) <= at and at <= tonumber(first) + SLOT) then
    first = text(at)
  end
  local packed, _, had_requests, had_tokens = not key.is_empty and call('HGET', key.windows, first), 0, 0, 0
  if packed then
    _, had_requests, had_tokens = slot_parts(packed)
  else
    call('ZADD', key.slots, first, first)
  end
  key.is_empty = false
  key.requests, key.tokens = key.requests + requests, key.tokens + tokens
  local grown = string.format('%.0f %.0f %.0f', at, had_requests + requests, had_tokens + tokens)
  call('HSET', key.windows, growing, first, first, grown)
  return first
end

-- Takes back what was counted in `slot`, if that is still there.
local function give_back(key, slot, requests, tokens)
  local packed = call('HGET', key.windows, slot)
  if not packed then
    return
  end
  local last, has_requests, has_tokens = slot_parts(packed)
  requests, tokens = math.min(requests, has_requests), math.min(tokens, has_tokens)
  key.requests, key.tokens = math.max(key.requests - requests, 0), math.max(key.tokens - tokens, 0)
  call('HSET', key.windows, slot, string.format('%.0f %.0f %.0f', last, has_requests - requests, has_tokens - tokens))
end

-- Frees the places of gateways that have not been heard of for too long.
local function free_silent(key)
  local silent = call('ZRANGEBYSCORE', key.running, '-inf', text(key.now - SILENCE), 'LIMIT', '0', '1000')
  if #silent > 0 then
    call('ZREM', key.running, unpack(silent))
    call('HDEL', key.windows, unpack(silent))
  end
end

-- Each slot's end, requests and tokens, oldest first, to `visit`, until that returns true.
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

-- How long until no requests, and no tokens, count any more.
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
local function standing(key)
  local requests_reset, tokens_reset = resets(key)
  return {text(key.now), text(key.requests), text(requests_reset), text(key.tokens), text(tokens_reset),
    text(call('ZCARD', key.running))}
end
