-- Admits one request of a key, or refuses it and takes nothing. KEYS: the three of the key.
-- ARGV: the request's name, its tokens; the limits of requests, tokens and running requests (-1: none); what to take
-- in advance, if all of that is free: the stock's name, requests, tokens, places, for how long; settlements before it.
-- Returns the verdict (0 admitted; 1 requests, 2 tokens, 3 too many at once), its slot, how long to wait, the stock's
-- slot (0: none), and the standing.

local name, tokens = ARGV[1], tonumber(ARGV[2])
local most_requests, most_tokens, most_running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local key = open(KEYS[1], KEYS[2], KEYS[3])
roll(key)
settle_all(key, 11)
free_silent(key)

local function answer(verdict, slot, wait, stock)
  local reply = standing(key)
  for place, value in ipairs({tostring(verdict), slot, text(wait), stock}) do
    table.insert(reply, place, value)
  end
  return reply
end

local function exceeds(limit, used, amount)
  return limit >= 0 and amount > 0 and used + amount > limit
end

-- The longest wait is told, and of equal waits that for requests; none while too many run.
local function refusal()
  if most_running >= 0 and call('ZCARD', key.running) >= most_running then
    return answer(3, '0', 0, '0')
  end
  local verdict, wait = 0, 0
  if exceeds(most_tokens, key.tokens, tokens) then
    verdict, wait = 2, wait_for(key, 0, key.tokens + tokens - most_tokens)
  end
  if exceeds(most_requests, key.requests, 1) then
    local for_requests = wait_for(key, key.requests + 1 - most_requests, 0)
    if verdict == 0 or for_requests >= wait then
      verdict, wait = 1, for_requests
    end
  end
  return verdict ~= 0 and answer(verdict, '0', wait, '0') or nil
end

local function run(request, slot, its_tokens)
  call('ZADD', key.running, text(key.now), request)
  call('HSET', key.windows, request, slot .. ' ' .. text(its_tokens))
end

-- What is taken in advance counts from when it is used at the latest, so that none of it leaves early.
local function stock()
  local stock_name, requests, stock_tokens, places = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
  local running = call('ZCARD', key.running)
  if stock_name == '0' or exceeds(most_requests, key.requests, requests) or
    exceeds(most_tokens, key.tokens, stock_tokens) or exceeds(most_running, running, places) then
    return '0'
  end
  local slot = add(key, 's', key.now + tonumber(ARGV[10]), requests, stock_tokens)
  call('HSET', key.windows, stock_name, slot .. ' ' .. text(requests) .. ' ' .. text(stock_tokens))
  for place = 1, places do
    call('ZADD', key.running, text(key.now), stock_name .. '.' .. place)
  end
  return slot
end

local before = call('HGET', key.windows, name)
if before then
  -- It was asked before, and the answer was lost on the way.
  return answer(0, string.match(before, '^(%d+)'), 0, '0')
end
local refused = refusal()
if refused then
  save(key)
  return refused
end
local slot = add(key, 'c', key.now, 1, tokens)
run(name, slot, tokens)
local advance = stock()
save(key)
call('PEXPIRE', key.running, KEEP_RUNNING)
return answer(0, slot, 0, advance)
