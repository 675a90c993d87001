package etcd

import (
	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge returns a zap logger that writes into log: what ends the process as an
// error; etcd's errors and warnings as debug, because it makes them of every
// orderly stop and every slow disk write, and real failures reach
// Server.Failed; the rest as trace.
func bridge(log hclog.Logger) *zap.Logger { return zap.New(core{log: log}) }

type core struct {
	log    hclog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) hclog.Level {
	switch {
	case l > zapcore.ErrorLevel:
		return hclog.Error
	case l >= zapcore.WarnLevel:
		return hclog.Debug
	}
	return hclog.Trace
}

func (c core) Enabled(l zapcore.Level) bool { return c.log.GetLevel() <= level(l) }

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{log: c.log, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	c.log.Log(level(e.Level), e.Message, args...)
	return nil
}

func (c core) Sync() error { return nil }
