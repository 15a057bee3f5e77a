-- Says that a gateway is there, and returns how many were heard of lately, and the epoch of the server's data: a mark that they
-- bear from when they were made. KEYS: the set of gateways, the epoch. ARGV: the gateway, the epoch if there is none.
local now, silence = clock(), 10000000
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - silence))
redis.call('PEXPIRE', KEYS[1], '11000')
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[2], epoch)
end
return {redis.call('ZCARD', KEYS[1]), epoch}
