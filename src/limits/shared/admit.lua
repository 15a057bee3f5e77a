-- Admits one request of a key, or refuses it and takes nothing. KEYS: the three of the key.
-- ARGV: the request's name, its tokens; the limits of requests, tokens and running requests (-1: none); what to take
-- in advance, if all of that is free: the stock's name ('0': nothing), requests, tokens, places, for how long;
-- settlements before it.
-- Returns the verdict (0 admitted; 1 requests, 2 tokens, 3 too many at once), its slot, how long to wait, the stock's
-- slot (0: none), and the standing.

local name, tokens, stock_name = ARGV[1], tonumber(ARGV[2]), ARGV[6]
local most_requests, most_tokens, most_running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local key = open(KEYS[1], KEYS[2], KEYS[3], name)
settle_all(key, 11)
-- Nobody wants to know how many run where that is not limited.
local running = most_running >= 0 and count_running(key) or 0

local function answer(verdict, slot, wait, stock_slot, requests_reset, tokens_reset)
  local reply = standing(key, requests_reset, tokens_reset, running)
  for place, value in ipairs({tostring(verdict), slot, text(wait), stock_slot}) do
    table.insert(reply, place, value)
  end
  return reply
end

local function exceeds(limit, used, amount)
  return limit >= 0 and amount > 0 and used + amount > limit
end

-- The longest wait is told, and of equal waits that for requests; none while too many run.
local function refusal()
  local verdict, wait = 0, 0
  if most_running >= 0 and running >= most_running then
    verdict = 3
  else
    local too_many, too_much = exceeds(most_requests, key.requests, 1), exceeds(most_tokens, key.tokens, tokens)
    if not too_many and not too_much then
      return
    end
    save(key)
    if too_much then
      verdict, wait = 2, wait_for(key, 0, key.tokens + tokens - most_tokens)
    end
    local for_requests = too_many and wait_for(key, key.requests + 1 - most_requests, 0)
    if for_requests and (not too_much or for_requests >= wait) then
      verdict, wait = 1, for_requests
    end
  end
  save(key)
  return answer(verdict, '0', wait, '0', resets(key))
end

-- What is taken in advance counts from when it is used at the latest, so that none of it leaves early. Its name is put
-- among those that run, uncounted, so that it can be given back once.
local function take_stock()
  local requests, stock_tokens, places = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
  if stock_name == '0' or exceeds(most_requests, key.requests, requests) or
    exceeds(most_tokens, key.tokens, stock_tokens) or exceeds(most_running, running, places) then
    return '0'
  end
  local slot = add(key, 's', key.now + tonumber(ARGV[10]), requests, stock_tokens)
  set(key, stock_name, slot .. ' ' .. text(requests) .. ' ' .. text(stock_tokens))
  put_running(key, {stock_name}, false, true)
  local names = {}
  for place = 1, places do
    names[place] = stock_name .. '.' .. place
  end
  put_running(key, names, false)
  running = running + places
  return slot
end

local before = field(key, name)
if before == GONE then
  -- Its gateway has given it up already.
  return answer(3, '0', 0, '0', 0, 0)
end
if before then
  -- It was asked before, and the answer was lost on the way.
  local stock = stock_name ~= '0' and field(key, stock_name)
  save(key)
  return answer(0, string.match(before, '^(%d+)'), 0, stock and string.match(stock, '^(%d+)') or '0', resets(key))
end
local refused = refusal()
if refused then
  return refused
end
local slot = add(key, 'c', key.now, 1, tokens)
put_running(key, {name}, running == 0)
set(key, name, slot .. ' ' .. text(tokens))
running = running + 1
local stock_slot = take_stock()
save(key)
local latest = tonumber(field(key, 's') or 0)
if latest <= key.now and tokens > 0 then
  -- Nothing came later than this.
  return answer(0, slot, 0, '0', SPAN, SPAN)
end
return answer(0, slot, 0, stock_slot, resets(key))
