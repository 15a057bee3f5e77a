-- Admits one request, which takes of all its subjects together, or refuses it and takes of none. KEYS: four for each
-- subject. ARGV: the request's name, its tokens, whether limits refuse ('1') or only count ('0'); what to take of the one
-- subject in advance, if all of that is free: the stock's name ('0': nothing), requests, tokens, places, for how long; then
-- for each subject the limits of requests, tokens and running requests (-1: none), settlements before it, its quotas.
-- Returns what became of it (0 refused, 1 admitted, 2 nothing: its quotas are of another calendar than this clock's); the
-- limit that refuses it (0 none, 1 requests, 2 tokens, 3 too many at once, 4 a quota), of which subject, which of its
-- quotas, how long to wait and until all of that is free; the stock's slot (0: none), the time; and for each subject the
-- slot, the standing, and what is used of each quota.

local REFUSED, ADMITTED, OUTSIDE = '0', '1', '2'
local name, tokens, enforces, stock_name = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4]
local subjects, at = {}, 9
-- What is known of it from before, if anything is.
local known, is_gone, is_outside
for index = 1, #KEYS / 4 do
  local key = open(index, name, settled_slots(at + 3))
  key.most_requests, key.most_tokens = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  key.most_running = tonumber(ARGV[at + 2])
  local settlements = at + 3
  at = open_quotas(key, after_settlements(settlements), settled_names(settlements))
  settle_all(key, settlements)
  bring_quotas(key)
  key.count = count_running(key)
  local before = field(key.windows, name)
  is_gone, known = is_gone or before == GONE, known or before
  is_outside = is_outside or key.is_outside
  key.slot = string.match(before or '', '^(%d+)') or '0'
  subjects[index] = key
end

local function save_all()
  for _, key in ipairs(subjects) do
    save(key)
  end
end

-- All must be saved.
local function answer(outcome, refusal, stock_slot)
  local reply = {outcome, refusal.over, refusal.subject, refusal.quota, refusal.wait, refusal.reset, stock_slot, present}
  for _, key in ipairs(subjects) do
    local requests_reset, tokens_reset = SPAN, SPAN
    if not (key.is_latest and tokens > 0) then
      requests_reset, tokens_reset = resets(key)
    end
    reply[#reply + 1] = key.slot
    for _, value in ipairs(standing(key, requests_reset, tokens_reset, key.count)) do
      reply[#reply + 1] = value
    end
    for _, quota in ipairs(key.limited) do
      reply[#reply + 1] = quota.used
    end
  end
  return reply
end

local function exceeds(limit, used, amount)
  return limit >= 0 and amount > 0 and used + amount > limit
end

local NOTHING = {over = 0, subject = 0, quota = 0, wait = 0, reset = 0}

local function refusal_by(over, subject, quota, wait, reset)
  return {over = over, subject = subject, quota = quota, wait = wait, reset = reset}
end

-- Each limit, but that of concurrency, that the request would exceed, to `visit`, with its waits once all is saved.
local function each_exceeded(visit)
  for index, key in ipairs(subjects) do
    if exceeds(key.most_tokens, key.tokens, tokens) then
      visit(2, index, 0, function() return wait_for(key, 0, key.tokens + tokens - key.most_tokens), 0 end)
    end
    if exceeds(key.most_requests, key.requests, 1) then
      visit(1, index, 0, function() return wait_for(key, key.requests + 1 - key.most_requests, 0), 0 end)
    end
    for number, quota in ipairs(key.limited) do
      local used = quota.used + quota.carried
      if exceeds(quota.limit, used, quota.amount) then
        local excess = used + quota.amount - quota.limit
        visit(4, index, number, function() return waits_for_quota(key, quota, excess) end)
      end
    end
  end
end

-- Why it is refused: over concurrency before all else, else by the limit with the longest wait, of equal waits by the last.
local function refusal()
  for index, key in ipairs(subjects) do
    if key.most_running >= 0 and key.count >= key.most_running then
      return refusal_by(3, index, 0, 0, 0)
    end
  end
  local longest
  each_exceeded(function(over, index, quota, waits)
    if not longest then
      save_all()
    end
    local wait, reset = waits()
    if not longest or wait >= longest.wait then
      longest = refusal_by(over, index, quota, wait, reset)
    end
  end)
  return longest
end

-- What is taken in advance counts from when it is used at the latest, so that none of it leaves early. Its name is put
-- among those that run, uncounted, so that it can be given back once.
local function take_stock()
  local key, requests, stock_tokens, places = subjects[1], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  if stock_name == '0' or exceeds(key.most_requests, key.requests, requests) or
    exceeds(key.most_tokens, key.tokens, stock_tokens) or exceeds(key.most_running, key.count, places) then
    return '0'
  end
  local slot = add(key, 's', key.now + tonumber(ARGV[8]), requests, stock_tokens)
  set(key.windows, stock_name, slot .. ' ' .. text(requests) .. ' ' .. text(stock_tokens))
  put_running(key, {stock_name}, false, true)
  local names = {}
  for place = 1, places do
    names[place] = stock_name .. '.' .. place
  end
  put_running(key, names, false)
  key.count = key.count + places
  return slot
end

local function take()
  for _, key in ipairs(subjects) do
    key.slot = add(key, 'c', key.now, 1, tokens)
    put_running(key, {name}, key.count == 0)
    set(key.windows, name, key.slot .. ' ' .. text(tokens))
    reserve_quotas(key, name)
    key.count = key.count + 1
    -- Whether nothing came later than this.
    key.is_latest = tonumber(field(key.windows, 's') or 0) <= key.now
  end
end

if is_gone then
  -- Its gateway has given it up already.
  save_all()
  return answer(REFUSED, refusal_by(3, 1, 0, 0, 0), '0')
end
if known then
  -- It was asked before, and the answer was lost on the way.
  local stock = stock_name ~= '0' and field(subjects[1].windows, stock_name)
  save_all()
  return answer(ADMITTED, NOTHING, stock and string.match(stock, '^(%d+)') or '0')
end
if is_outside then
  save_all()
  return answer(OUTSIDE, NOTHING, '0')
end
local refused = refusal()
if refused and enforces then
  save_all()
  return answer(REFUSED, refused, '0')
end
take()
local stock_slot = take_stock()
if stock_slot ~= '0' then
  subjects[1].is_latest = false
end
save_all()
return answer(ADMITTED, refused or NOTHING, stock_slot)
